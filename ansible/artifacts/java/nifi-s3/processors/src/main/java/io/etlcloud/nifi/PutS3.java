package io.etlcloud.nifi;

import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.io.UncheckedIOException;
import java.net.URI;
import java.security.DigestInputStream;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.Set;
import javax.net.ssl.TrustManager;
import org.apache.nifi.annotation.behavior.InputRequirement;
import org.apache.nifi.annotation.behavior.SupportsBatching;
import org.apache.nifi.annotation.behavior.WritesAttribute;
import org.apache.nifi.annotation.behavior.WritesAttributes;
import org.apache.nifi.annotation.documentation.CapabilityDescription;
import org.apache.nifi.annotation.documentation.Tags;
import org.apache.nifi.annotation.lifecycle.OnScheduled;
import org.apache.nifi.annotation.lifecycle.OnStopped;
import org.apache.nifi.components.AllowableValue;
import org.apache.nifi.components.PropertyDescriptor;
import org.apache.nifi.components.Validator;
import org.apache.nifi.expression.ExpressionLanguageScope;
import org.apache.nifi.flowfile.FlowFile;
import org.apache.nifi.processor.AbstractProcessor;
import org.apache.nifi.processor.DataUnit;
import org.apache.nifi.processor.ProcessContext;
import org.apache.nifi.processor.ProcessSession;
import org.apache.nifi.processor.Relationship;
import org.apache.nifi.processor.util.StandardValidators;
import org.apache.nifi.ssl.SSLContextProvider;
import software.amazon.awssdk.auth.credentials.AwsBasicCredentials;
import software.amazon.awssdk.auth.credentials.StaticCredentialsProvider;
import software.amazon.awssdk.core.checksums.RequestChecksumCalculation;
import software.amazon.awssdk.core.checksums.ResponseChecksumValidation;
import software.amazon.awssdk.core.exception.SdkException;
import software.amazon.awssdk.core.sync.RequestBody;
import software.amazon.awssdk.http.urlconnection.UrlConnectionHttpClient;
import software.amazon.awssdk.regions.Region;
import software.amazon.awssdk.services.s3.S3Client;
import software.amazon.awssdk.services.s3.model.CompletedPart;
import software.amazon.awssdk.services.s3.model.HeadObjectResponse;
import software.amazon.awssdk.services.s3.model.S3Exception;

@InputRequirement(InputRequirement.Requirement.INPUT_REQUIRED)
@SupportsBatching
@Tags({"s3", "put", "object store"})
@CapabilityDescription("Streams the content of a FlowFile to one object of an S3 store, in parts above a size.")
@WritesAttributes({
    @WritesAttribute(attribute = "s3.bucket", description = "Bucket of the object"),
    @WritesAttribute(attribute = "s3.key", description = "Key of the object"),
    @WritesAttribute(attribute = "s3.etag", description = "ETag of the object"),
    @WritesAttribute(attribute = "s3.version", description = "Version of the object, when the bucket is versioned"),
    @WritesAttribute(attribute = "s3.result", description = "created, or unchanged when the same content was there already"),
    @WritesAttribute(attribute = "s3.error.code", description = "The store's error code, or the kind of failure"),
    @WritesAttribute(attribute = "s3.error.status", description = "HTTP status, 0 when there was no answer"),
    @WritesAttribute(attribute = "s3.error.message", description = "What went wrong, for people")
})
public class PutS3 extends AbstractProcessor {

    static final AllowableValue ALLOW = new AllowableValue("allow", "allow", "A put to an existing key makes its newest version");
    static final AllowableValue REFUSE = new AllowableValue("refuse", "refuse",
        "If-None-Match: *. An existing object with the same length and SHA-256 is success, any other goes to 'exists'");

    static final PropertyDescriptor ENDPOINT = text("Endpoint URL", "https://host:port of the S3 store").build();
    static final PropertyDescriptor REGION = text("Region", "Region that requests are signed for").defaultValue("us-east-1").build();
    static final PropertyDescriptor BUCKET = perFlowFile("Bucket", "Name of the bucket").build();
    static final PropertyDescriptor KEY = perFlowFile("Object Key", "Key of the object, without empty, '.' or '..' segments").build();
    static final PropertyDescriptor ACCESS_KEY = text("Access Key ID", "Name of the S3 user").build();
    static final PropertyDescriptor SECRET_KEY = text("Secret Access Key", "Secret of the S3 user").sensitive(true).build();
    static final PropertyDescriptor CONTENT_TYPE = perFlowFile("Content Type", "Media type of the object")
        .defaultValue("application/octet-stream").build();
    static final PropertyDescriptor OVERWRITE = new PropertyDescriptor.Builder().name("Overwrite")
        .description("What to do when the key exists").allowableValues(ALLOW, REFUSE).defaultValue(ALLOW.getValue()).required(true).build();
    static final PropertyDescriptor PATH_STYLE = new PropertyDescriptor.Builder().name("Path Style Access")
        .description("Bucket in the path (most stores of one's own) rather than in the host name").allowableValues("true", "false")
        .defaultValue("true").required(true).build();
    static final PropertyDescriptor SSL = new PropertyDescriptor.Builder().name("SSL Context Service")
        .description("Trust store that the endpoint's certificate is checked against; the JVM's when absent")
        .identifiesControllerService(SSLContextProvider.class).build();
    static final PropertyDescriptor THRESHOLD = size("Multipart Threshold", "Larger contents are put in parts", "64 MB");
    static final PropertyDescriptor PART_SIZE = size("Part Size", "Size of a part, at least 5 MB; the memory a concurrent task needs", "16 MB");

    static final Relationship SUCCESS = new Relationship.Builder().name("success").description("The object is in the store").build();
    static final Relationship FAILURE = new Relationship.Builder().name("failure").description("It is not; a retry may help").build();
    static final Relationship EXISTS = new Relationship.Builder().name("exists")
        .description("Overwrite is refuse and other content is under this key; a retry cannot help").build();

    private static final String SHA256 = "sha256";
    private static final int MAX_PARTS = 10_000;

    private volatile S3Client client;

    private static PropertyDescriptor.Builder text(final String name, final String description) {
        return new PropertyDescriptor.Builder().name(name).description(description).required(true)
            .addValidator(StandardValidators.NON_BLANK_VALIDATOR).expressionLanguageSupported(ExpressionLanguageScope.ENVIRONMENT);
    }

    private static PropertyDescriptor.Builder perFlowFile(final String name, final String description) {
        return new PropertyDescriptor.Builder().name(name).description(description).required(true)
            .addValidator(Validator.VALID).expressionLanguageSupported(ExpressionLanguageScope.FLOWFILE_ATTRIBUTES);
    }

    private static PropertyDescriptor size(final String name, final String description, final String value) {
        return new PropertyDescriptor.Builder().name(name).description(description).required(true)
            .addValidator(StandardValidators.createDataSizeBoundsValidator(5L << 20, 1L << 30)).defaultValue(value).build();
    }

    @Override
    protected List<PropertyDescriptor> getSupportedPropertyDescriptors() {
        return List.of(ENDPOINT, REGION, BUCKET, KEY, ACCESS_KEY, SECRET_KEY, SSL, OVERWRITE, CONTENT_TYPE, PATH_STYLE, THRESHOLD, PART_SIZE);
    }

    @Override
    public Set<Relationship> getRelationships() {
        return Set.of(SUCCESS, FAILURE, EXISTS);
    }

    @OnScheduled
    public void connect(final ProcessContext context) {
        final UrlConnectionHttpClient.Builder http = UrlConnectionHttpClient.builder()
            .connectionTimeout(Duration.ofSeconds(10)).socketTimeout(Duration.ofSeconds(60));
        final SSLContextProvider ssl = context.getProperty(SSL).asControllerService(SSLContextProvider.class);
        if (ssl != null) {
            final TrustManager[] trusted = {ssl.createTrustManager()};
            http.tlsTrustManagersProvider(() -> trusted);
        }
        client = S3Client.builder()
            .endpointOverride(URI.create(environment(context, ENDPOINT)))
            .region(Region.of(environment(context, REGION)))
            .credentialsProvider(StaticCredentialsProvider.create(
                AwsBasicCredentials.create(environment(context, ACCESS_KEY), environment(context, SECRET_KEY))))
            .httpClientBuilder(http)
            .forcePathStyle(context.getProperty(PATH_STYLE).asBoolean())
            // plain bodies of known length: aws-chunked trailers are not understood by every store
            .requestChecksumCalculation(RequestChecksumCalculation.WHEN_REQUIRED)
            .responseChecksumValidation(ResponseChecksumValidation.WHEN_REQUIRED)
            .serviceConfiguration(service -> service.chunkedEncodingEnabled(false).expectContinueEnabled(false))
            .build();
    }

    @OnStopped
    public void disconnect() {
        if (client != null) {
            client.close();
            client = null;
        }
    }

    @Override
    public void onTrigger(final ProcessContext context, final ProcessSession session) {
        final FlowFile flowFile = session.get();
        if (flowFile == null) {
            return;
        }
        final Put put = new Put(session, flowFile,
            context.getProperty(BUCKET).evaluateAttributeExpressions(flowFile).getValue(),
            context.getProperty(KEY).evaluateAttributeExpressions(flowFile).getValue(),
            context.getProperty(CONTENT_TYPE).evaluateAttributeExpressions(flowFile).getValue(),
            REFUSE.getValue().equals(context.getProperty(OVERWRITE).getValue()));
        final long started = System.nanoTime();
        try {
            put.checkNames();
            final boolean parts = flowFile.getSize() > context.getProperty(THRESHOLD).asDataSize(DataUnit.B).longValue();
            final Result result = parts ? put.inParts(context.getProperty(PART_SIZE).asDataSize(DataUnit.B).longValue()) : put.whole();
            session.getProvenanceReporter().send(flowFile, environment(context, ENDPOINT) + "/" + put.bucket + "/" + put.key,
                Duration.ofNanos(System.nanoTime() - started).toMillis());
            session.transfer(session.putAllAttributes(flowFile, put.attributes(result)), SUCCESS);
        } catch (final S3Exception e) {
            final String code = e.awsErrorDetails() == null ? "S3" : e.awsErrorDetails().errorCode();
            fail(session, put, put.refused(e) ? EXISTS : FAILURE, code, e.statusCode(), e.getMessage());
        } catch (final BadName e) {
            fail(session, put, FAILURE, "InvalidName", 0, e.getMessage());
        } catch (final SdkException | IOException e) {
            fail(session, put, FAILURE, "NoAnswer", 0, causes(e));
        }
    }

    private void fail(final ProcessSession session, final Put put, final Relationship to, final String code, final int status, final String message) {
        final String text = message == null || message.isBlank() ? code : message;
        getLogger().error("s3://{}/{} was not put: {} {}", put.bucket, put.key, code, text);
        final Map<String, String> attributes = Map.of(
            "s3.error.code", String.valueOf(code), "s3.error.status", String.valueOf(status), "s3.error.message", text);
        final FlowFile failed = session.putAllAttributes(put.flowFile, attributes);
        session.transfer(to == FAILURE ? session.penalize(failed) : failed, to);
    }

    /** The SDK says "Unable to execute HTTP request"; the certificate or address that is wrong is further down. */
    private static String causes(final Throwable error) {
        final StringBuilder text = new StringBuilder(String.valueOf(error.getMessage()));
        for (Throwable cause = error.getCause(); cause != null; cause = cause.getCause()) {
            if (cause.getMessage() != null && text.indexOf(cause.getMessage()) < 0) {
                text.append("; ").append(cause.getMessage());
            }
        }
        return text.toString();
    }

    private static String environment(final ProcessContext context, final PropertyDescriptor property) {
        return context.getProperty(property).evaluateAttributeExpressions().getValue();
    }

    private static final class BadName extends RuntimeException {
        BadName(final String message) {
            super(message);
        }
    }

    private record Result(String etag, String version, String state) { }

    /** One content on its way to one object. */
    private final class Put {
        private final ProcessSession session;
        private final FlowFile flowFile;
        private final String bucket;
        private final String key;
        private final String contentType;
        private final boolean refuse;

        Put(final ProcessSession session, final FlowFile flowFile, final String bucket, final String key, final String contentType,
                final boolean refuse) {
            this.session = session;
            this.flowFile = flowFile;
            this.bucket = bucket;
            this.key = key;
            this.contentType = contentType;
            this.refuse = refuse;
        }

        void checkNames() {
            if (bucket == null || bucket.isBlank()) {
                throw new BadName("Bucket is empty: check the attribute or parameter it is made of");
            }
            for (final String segment : (key == null ? "" : key).split("/", -1)) {
                if (segment.isBlank() || segment.equals(".") || segment.equals("..")) {
                    throw new BadName("Object Key '" + key + "' has a segment '" + segment + "': empty, '.' and '..' are refused");
                }
            }
        }

        Result whole() throws IOException {
            final Map<String, String> metadata = metadata();
            try (Content content = new Content()) {
                final RequestBody body = RequestBody.fromContentProvider(content::reopen, flowFile.getSize(), contentType);
                final var answer = client.putObject(request -> request.bucket(bucket).key(key).contentType(contentType)
                    .metadata(metadata).ifNoneMatch(refuse ? "*" : null), body);
                return new Result(answer.eTag(), answer.versionId(), "created");
            } catch (final S3Exception e) {
                return sameOrThrow(e, metadata);
            }
        }

        /** The SDK asks for the content anew for each attempt and leaves it open; a session lends one stream at a time. */
        private final class Content implements AutoCloseable {
            private InputStream stream;

            InputStream reopen() {
                try {
                    close();
                } catch (final IOException e) {
                    throw new UncheckedIOException(e);
                }
                stream = session.read(flowFile);
                return stream;
            }

            @Override
            public void close() throws IOException {
                if (stream != null) {
                    stream.close();
                    stream = null;
                }
            }
        }

        Result inParts(final long wantedPartSize) throws IOException {
            final Map<String, String> metadata = metadata();
            final int partSize = Math.toIntExact(Math.max(wantedPartSize, (flowFile.getSize() + MAX_PARTS - 1) / MAX_PARTS));
            final String upload = client.createMultipartUpload(request -> request.bucket(bucket).key(key)
                .contentType(contentType).metadata(metadata)).uploadId();
            try (InputStream content = session.read(flowFile)) {
                final List<CompletedPart> parts = new ArrayList<>();
                final byte[] buffer = new byte[partSize];
                for (int size = content.readNBytes(buffer, 0, partSize); size > 0; size = content.readNBytes(buffer, 0, partSize)) {
                    final int number = parts.size() + 1;
                    final int length = size;
                    final RequestBody body = RequestBody.fromContentProvider(
                        () -> new ByteArrayInputStream(buffer, 0, length), length, contentType);
                    final String etag = client.uploadPart(request -> request.bucket(bucket).key(key).uploadId(upload)
                        .partNumber(number).contentLength((long) length), body).eTag();
                    parts.add(CompletedPart.builder().partNumber(number).eTag(etag).build());
                }
                final var answer = client.completeMultipartUpload(request -> request.bucket(bucket).key(key).uploadId(upload)
                    .ifNoneMatch(refuse ? "*" : null).multipartUpload(list -> list.parts(parts)));
                return new Result(answer.eTag(), answer.versionId(), "created");
            } catch (final S3Exception e) {
                abort(upload);
                return sameOrThrow(e, metadata);
            } catch (final SdkException | IOException e) {
                abort(upload);
                throw e;
            }
        }

        private void abort(final String upload) {
            try {
                client.abortMultipartUpload(request -> request.bucket(bucket).key(key).uploadId(upload));
            } catch (final SdkException e) {
                getLogger().warn("Upload {} of s3://{}/{} was not aborted; the bucket's lifecycle rule has to: {}", upload, bucket, key, e.getMessage());
            }
        }

        /** 412: the key exists; 409: another conditional put of it is under way. */
        boolean refused(final S3Exception e) {
            return refuse && e.statusCode() == 412;
        }

        private Result sameOrThrow(final S3Exception e, final Map<String, String> metadata) {
            if (!refuse || (e.statusCode() != 412 && e.statusCode() != 409)) {
                throw e;
            }
            final HeadObjectResponse there;
            try {
                there = client.headObject(request -> request.bucket(bucket).key(key));
            } catch (final SdkException unreadable) {
                e.addSuppressed(unreadable);
                throw e;
            }
            if (there.contentLength() == flowFile.getSize() && metadata.get(SHA256).equals(there.metadata().get(SHA256))) {
                return new Result(there.eTag(), there.versionId(), "unchanged");
            }
            throw e;
        }

        private Map<String, String> metadata() throws IOException {
            if (!refuse) {
                return Map.of();
            }
            try (DigestInputStream content = new DigestInputStream(session.read(flowFile), MessageDigest.getInstance("SHA-256"))) {
                content.transferTo(OutputStream.nullOutputStream());
                return Map.of(SHA256, HexFormat.of().formatHex(content.getMessageDigest().digest()));
            } catch (final NoSuchAlgorithmException e) {
                throw new IllegalStateException(e);
            }
        }

        Map<String, String> attributes(final Result result) {
            final Map<String, String> attributes = new HashMap<>(Map.of("s3.bucket", bucket, "s3.key", key, "s3.result", result.state()));
            attributes.put("s3.etag", result.etag() == null ? "" : result.etag().replace("\"", ""));
            if (result.version() != null) {
                attributes.put("s3.version", result.version());
            }
            return attributes;
        }
    }
}
