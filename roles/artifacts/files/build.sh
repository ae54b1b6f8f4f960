#!/usr/bin/env bash
# Builds one artifact at its final path and packs it into the depot.
#
#   build.sh PREFIX ARCHIVE KIND=MANIFEST...      KIND: go, maven, java, python, upstream
#
# Runs in a transient unit whose working directory holds the manifests and in which PREFIX is an empty
# writable directory: virtual environments are not relocatable, so they are made where the hosts unpack them.
# CACHE_DIR keeps what the ecosystems' clients download. RECORD_CHECKSUMS=true writes Maven's checksums instead of comparing them.
set -euo pipefail

prefix=$1 archive=$2
shift 2

export HOME="$CACHE_DIR" TMPDIR=/tmp
export GOPATH="$CACHE_DIR/go" GOCACHE="$CACHE_DIR/go-build" GOFLAGS="-modcacherw -buildvcs=false" GOTOOLCHAIN=local CGO_ENABLED=0
export UV_CACHE_DIR="$CACHE_DIR/uv" UV_LINK_MODE=copy UV_SYSTEM_CERTS=1 UV_PYTHON_DOWNLOADS=never

build_go() { # the tools that go.mod names
  (cd "$1" && go build -trimpath -mod=readonly -ldflags='-s -w' -o "$prefix/bin/" tool)
}

mvn_package() { # MANIFEST STRICT: what Maven resolves has the checksums of checksums.sha256, and with STRICT=true nothing else is resolved
  local checksums=aether.artifactResolver.postProcessor.trustedChecksums source=aether.trustedChecksumsSource.summaryFile
  (cd "$1" && mvn --batch-mode --no-transfer-progress --quiet package -DskipTests \
    -Dmaven.repo.local="$CACHE_DIR/maven" -Dartifact.dir="$prefix" -Daether.dependencyCollector.impl=bf \
    -Daether.syncContext.named.factory=file-lock -Daether.syncContext.named.nameMapper=file-gav \
    -D$source=true -D$source.basedir="$PWD" -D$source.originAware=false \
    -D$checksums=true -D$checksums.checksumAlgorithms=SHA-256 \
    -D$checksums.failIfMissing="$2" -D$checksums.record="$RECORD_CHECKSUMS")
  if [[ -x $1/finish ]]; then "$1/finish" "$prefix"; fi
}

build_maven() { # what the pom copies to ${artifact.dir}
  mvn_package "$1" true
  if [[ $RECORD_CHECKSUMS == true ]]; then sort -k2 -o "$1/checksums.sha256" "$1/checksums.sha256"; fi
}

build_java() { # our own sources; their modules resolve each other, which no lock can list
  mvn_package "$1" false
  if [[ $RECORD_CHECKSUMS == true ]]; then
    own=$(sed -n 's|.*<groupId>\(.*\)</groupId>.*|\1|p' "$1/pom.xml" | head -1 | tr . /)
    grep -v "  $own/" "$1/checksums.sha256" | sort -k2 > "$1/recorded"
    mv "$1/recorded" "$1/checksums.sha256"
  fi
}

build_python() { # a virtual environment with exactly the locked packages, byte code included
  local uv
  uv="$CACHE_DIR/uv-$(sha256sum python/uv.txt | cut -c1-12)"
  (
    flock 9
    [[ -x $uv/bin/uv ]] && exit
    python3 -m venv "$uv"
    "$uv/bin/pip" install --quiet --disable-pip-version-check --require-hashes -r python/uv.txt
  ) 9> "$CACHE_DIR/uv.lock"
  "$uv/bin/uv" venv --quiet --python /usr/bin/python3 "$prefix/venv"
  "$uv/bin/uv" pip sync --quiet --python "$prefix/venv/bin/python" --require-hashes --compile-bytecode "$1"
}

build_upstream() { # an archive of its maker, without its top directory
  bsdtar -xf "$1" --strip-components 1 -C "$prefix"
}

for part in "$@"; do
  "build_${part%%=*}" "${part#*=}"
done

tar --sort=name --owner=0 --group=0 --numeric-owner -C "$prefix" -cf - . | zstd -T0 -3 --quiet --force -o "$archive.part"
sum=$(sha256sum "$archive.part" | cut -c1-64)
mv "$archive.part" "$archive"
cd "$(dirname "$archive")"
exec 9> "$CACHE_DIR/sums.lock"
flock 9
touch SHA256SUMS
{ awk -v file="${archive##*/}" '$2 != file' SHA256SUMS; echo "$sum  ${archive##*/}"; } > SHA256SUMS.part
mv SHA256SUMS.part SHA256SUMS
