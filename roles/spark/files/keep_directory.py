"""Put an object into an S3 "directory" that has none, so that it exists. Reads its arguments as JSON from standard input."""

import json
import sys

import boto3
from botocore.config import Config

given = json.load(sys.stdin)
bucket, prefix = given.pop("bucket"), given.pop("prefix")
style = Config(s3={"addressing_style": given.pop("addressing_style")})
s3 = boto3.client("s3", config=style, **given)
if not s3.list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/", MaxKeys=1).get("Contents"):
    s3.put_object(Bucket=bucket, Key=f"{prefix}/.keep", Body=b"")
    print("made")
