# Bucket, endpoint and region come from state.tfbackend, the key from the environment's name, credentials from AWS_* or ~/.aws:
# the bucket lies outside of every environment that it describes.
terraform {
  backend "s3" {
    use_lockfile                = true
    use_path_style              = true
    skip_credentials_validation = true
    skip_region_validation      = true
    skip_requesting_account_id  = true
    skip_metadata_api_check     = true
    skip_s3_checksum            = true
  }
}
