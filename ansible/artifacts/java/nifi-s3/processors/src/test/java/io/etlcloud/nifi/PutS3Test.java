package io.etlcloud.nifi;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.TreeMap;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.Executors;
import org.apache.nifi.util.MockFlowFile;
import org.apache.nifi.util.TestRunner;
import org.apache.nifi.util.TestRunners;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

class PutS3Test {
    private static final String KEY = "flights_db/flights/dt=2013-01-01/run_id=r/attempt=1/part-00000.avro";

    private Store store;
    private TestRunner runner;

    @BeforeEach
    void start() throws IOException {
        store = new Store();
        runner = TestRunners.newTestRunner(PutS3.class);
        runner.setProperty(PutS3.ENDPOINT, "http://127.0.0.1:" + store.server.getAddress().getPort());
        runner.setProperty(PutS3.BUCKET, "raw");
        runner.setProperty(PutS3.KEY, "${wanted}");
        runner.setProperty(PutS3.ACCESS_KEY, "user");
        runner.setProperty(PutS3.SECRET_KEY, "secret");
        runner.setProperty(PutS3.THRESHOLD, "6 MB");
        runner.setProperty(PutS3.PART_SIZE, "5 MB");
    }

    @AfterEach
    void stop() {
        store.server.stop(0);
    }

    private MockFlowFile put(final byte[] content, final String key, final String to) {
        runner.clearTransferState();
        runner.enqueue(content, Map.of("wanted", key));
        runner.run();
        runner.assertAllFlowFilesTransferred(to, 1);
        return runner.getFlowFilesForRelationship(to).getFirst();
    }

    private MockFlowFile put(final String content, final String to) {
        return put(content.getBytes(StandardCharsets.UTF_8), KEY, to);
    }

    @Test
    void contentArrivesWithItsLengthAndAttributesSayWhere() {
        final MockFlowFile done = put("content", "success");
        assertEquals("content", new String(store.objects.get("/raw/" + KEY), StandardCharsets.UTF_8));
        assertEquals("7", store.lastPut.get("Content-length"));
        assertNull(store.lastPut.get("If-none-match"));
        done.assertAttributeEquals("s3.bucket", "raw");
        done.assertAttributeEquals("s3.key", KEY);
        done.assertAttributeEquals("s3.etag", "etag");
        done.assertAttributeEquals("s3.version", "v1");
        done.assertAttributeEquals("s3.result", "created");
    }

    @Test
    void anEmptyContentIsAnEmptyObject() {
        put("", "success");
        assertEquals(0, store.objects.get("/raw/" + KEY).length);
    }

    @Test
    void largeContentGoesInParts() {
        final byte[] content = new byte[(12 << 20) + 3];
        new Random(1).nextBytes(content);
        put(content, KEY, "success");
        assertArrayEquals(content, store.objects.get("/raw/" + KEY));
        assertEquals(List.of(5 << 20, 5 << 20, (2 << 20) + 3), store.partSizes);
    }

    @Test
    void aFailedPartAbortsTheUpload() {
        store.failPart = 2;
        put(new byte[12 << 20], KEY, "failure").assertAttributeEquals("s3.error.status", "403");
        assertTrue(store.aborted);
        assertTrue(store.objects.isEmpty());
    }

    @Test
    void refuseCreatesOnceAndTakesTheSameContentForARepetition() {
        runner.setProperty(PutS3.OVERWRITE, "refuse");
        put("first", "success").assertAttributeEquals("s3.result", "created");
        assertEquals("*", store.lastPut.get("If-none-match"));
        put("first", "success").assertAttributeEquals("s3.result", "unchanged");
    }

    @Test
    void refuseLeavesOtherContentAlone() {
        runner.setProperty(PutS3.OVERWRITE, "refuse");
        put("first", "success");
        final MockFlowFile refused = put("other", "exists");
        refused.assertAttributeEquals("s3.error.status", "412");
        refused.assertAttributeEquals("s3.error.code", "PreconditionFailed");
        assertEquals("first", new String(store.objects.get("/raw/" + KEY), StandardCharsets.UTF_8));
    }

    @Test
    void refuseHoldsForPartsToo() {
        runner.setProperty(PutS3.OVERWRITE, "refuse");
        put(new byte[7 << 20], KEY, "success");
        put(new byte[7 << 20], KEY, "success").assertAttributeEquals("s3.result", "unchanged");
        put(new byte[8 << 20], KEY, "exists");
    }

    @Test
    void theStoresErrorIsTold() {
        store.error = new String[] {"404", "NoSuchBucket"};
        final MockFlowFile failed = put("x", "failure");
        failed.assertAttributeEquals("s3.error.code", "NoSuchBucket");
        failed.assertAttributeEquals("s3.error.status", "404");
        assertTrue(failed.getAttribute("s3.error.message").contains("said NoSuchBucket"));
    }

    @Test
    void anUnreachableStoreIsTold() {
        runner.setProperty(PutS3.ENDPOINT, "http://127.0.0.1:1");
        final MockFlowFile failed = put("x", "failure");
        failed.assertAttributeEquals("s3.error.status", "0");
        assertTrue(failed.getAttribute("s3.error.message").contains("refused"), failed.getAttribute("s3.error.message"));
    }

    @ParameterizedTest
    @ValueSource(strings = {"", " ", "/a", "a/", "a//b", "a/../b", "a/./b", ".."})
    void badKeysNeverReachTheStore(final String key) {
        final MockFlowFile failed = put(new byte[1], key, "failure");
        failed.assertAttributeEquals("s3.error.code", "InvalidName");
        assertTrue(failed.getAttribute("s3.error.message").contains("'" + key + "'"));
        assertEquals(0, store.requests);
    }

    @Test
    void anEmptyBucketNeverReachesTheStore() {
        runner.setProperty(PutS3.BUCKET, "${nothing}");
        put("x", "failure").assertAttributeEquals("s3.error.code", "InvalidName");
        assertEquals(0, store.requests);
    }

    /** As much of an S3 store as a put can see. */
    private static final class Store {
        final HttpServer server = HttpServer.create(new InetSocketAddress("127.0.0.1", 0), 0);
        final Map<String, byte[]> objects = new ConcurrentHashMap<>();
        final Map<String, String> digests = new ConcurrentHashMap<>();
        final List<Integer> partSizes = new ArrayList<>();
        final TreeMap<Integer, byte[]> parts = new TreeMap<>();
        volatile Map<String, String> lastPut = Map.of();
        volatile String uploadDigest;
        volatile String[] error;
        volatile int failPart;
        volatile boolean aborted;
        volatile int requests;

        Store() throws IOException {
            server.setExecutor(Executors.newVirtualThreadPerTaskExecutor());
            server.createContext("/", this::handle);
            server.start();
        }

        private synchronized void handle(final HttpExchange call) throws IOException {
            requests++;
            final byte[] body = call.getRequestBody().readAllBytes();
            final String path = call.getRequestURI().getPath();
            final String query = String.valueOf(call.getRequestURI().getQuery());
            final String digest = call.getRequestHeaders().getFirst("x-amz-meta-sha256");
            final boolean refuse = "*".equals(call.getRequestHeaders().getFirst("If-None-Match"));
            if (error != null) {
                fail(call, Integer.parseInt(error[0]), error[1]);
            } else if (call.getRequestMethod().equals("HEAD")) {
                call.getResponseHeaders().set("Content-Length", String.valueOf(objects.get(path).length));
                if (digests.containsKey(path)) {
                    call.getResponseHeaders().set("x-amz-meta-sha256", digests.get(path));
                }
                call.sendResponseHeaders(200, -1);
            } else if (call.getRequestMethod().equals("DELETE")) {
                aborted = true;
                call.sendResponseHeaders(204, -1);
            } else if (query.startsWith("uploads")) {
                parts.clear();
                uploadDigest = digest;
                answer(call, "<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>");
            } else if (query.contains("partNumber")) {
                final int number = Integer.parseInt(query.replaceAll(".*partNumber=(\\d+).*", "$1"));
                if (number == failPart) {
                    fail(call, 403, "AccessDenied");
                } else {
                    parts.put(number, body);
                    partSizes.add(body.length);
                    call.getResponseHeaders().set("ETag", "\"p" + number + "\"");
                    call.sendResponseHeaders(200, -1);
                }
            } else if (refuse && objects.containsKey(path)) {
                fail(call, 412, "PreconditionFailed");
            } else if (query.contains("uploadId")) {
                final ByteArrayOutputStream all = new ByteArrayOutputStream();
                parts.values().forEach(all::writeBytes);
                keep(path, all.toByteArray(), uploadDigest);
                answer(call, "<CompleteMultipartUploadResult><ETag>\"etag-2\"</ETag></CompleteMultipartUploadResult>");
            } else {
                final Map<String, String> headers = new ConcurrentHashMap<>();
                call.getRequestHeaders().forEach((name, values) -> headers.put(name, values.getFirst()));
                lastPut = headers;
                keep(path, body, digest);
                call.getResponseHeaders().set("ETag", "\"etag\"");
                call.getResponseHeaders().set("x-amz-version-id", "v1");
                call.sendResponseHeaders(200, -1);
            }
            call.close();
        }

        private void keep(final String path, final byte[] content, final String digest) {
            objects.put(path, content);
            if (digest != null) {
                digests.put(path, digest);
            }
        }

        private static void answer(final HttpExchange call, final String xml) throws IOException {
            final byte[] body = xml.getBytes(StandardCharsets.UTF_8);
            call.sendResponseHeaders(200, body.length);
            call.getResponseBody().write(body);
        }

        private static void fail(final HttpExchange call, final int status, final String code) throws IOException {
            final byte[] body = ("<Error><Code>" + code + "</Code><Message>the store said " + code + "</Message></Error>")
                .getBytes(StandardCharsets.UTF_8);
            call.getResponseHeaders().set("Content-Type", "application/xml");
            call.sendResponseHeaders(status, body.length);
            call.getResponseBody().write(body);
        }
    }
}
