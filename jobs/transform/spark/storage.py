"""Small files and directory look-ups on whatever file system Spark reads (s3a://, file://), from the driver.

Uses the Hadoop FileSystem of the Spark session: the same endpoint, credentials and trust as for the data.
"""

from __future__ import annotations

from pyspark.sql import SparkSession


class Storage:
    """Read, write once, list; errors are the Java exceptions of the file system (py4j's Py4JJavaError)."""

    def __init__(self, spark: SparkSession):
        self._jvm = spark._jvm
        self._conf = spark._jsc.hadoopConfiguration()

    def _open(self, path: str):
        """Return (file system, Hadoop path) of a URL."""
        hadoop_path = self._jvm.org.apache.hadoop.fs.Path(path)
        return hadoop_path.getFileSystem(self._conf), hadoop_path

    def read_text(self, path: str) -> str:
        """Return the content of a UTF-8 file."""
        fs, hadoop_path = self._open(path)
        stream = fs.open(hadoop_path)
        try:
            return self._jvm.org.apache.commons.io.IOUtils.toString(stream, "UTF-8")
        finally:
            stream.close()

    def head(self, path: str, most: int) -> bytes:
        """Return the first bytes of a file, at most so many."""
        fs, hadoop_path = self._open(path)
        stream = fs.open(hadoop_path)
        try:
            return bytes(stream.readNBytes(most))
        finally:
            stream.close()

    def create_text(self, path: str, text: str) -> None:
        """Write a new UTF-8 file; an existing one is an error, never overwritten."""
        fs, hadoop_path = self._open(path)
        stream = fs.create(hadoop_path, False)
        try:
            stream.write(bytearray(text, "utf-8"))
        finally:
            stream.close()

    def exists(self, path: str) -> bool:
        """Tell whether a file, or a directory with anything in it, is there."""
        fs, hadoop_path = self._open(path)
        return fs.exists(hadoop_path)

    def names(self, path: str) -> list[str]:
        """Return the names of the entries of a directory, sorted; [] when it does not exist."""
        fs, hadoop_path = self._open(path)
        return sorted(entry.getPath().getName() for entry in fs.listStatus(hadoop_path)) if self.exists(path) else []

    def size(self, path: str) -> int:
        """Return the size of a file in bytes."""
        fs, hadoop_path = self._open(path)
        return fs.getFileStatus(hadoop_path).getLen()
