# dev: the lab's six hosts as small instances; everything may be thrown away.
environment      = "dev"
external_network = "public"
subnet_cidr      = "10.20.0.0/24"
image            = "debian-13-genericcloud"

nodes = {
  sources = {
    count          = 1
    flavor         = "m1.small" # 2 GB
    roles          = ["sources"]
    public_address = true
  }
  lake = {
    count          = 1
    flavor         = "m1.small"
    roles          = ["minio"]
    public_address = true
    volumes        = { data = { size = 20, mount = "/var/lib/minio", protected = false } }
  }
  ingest = {
    count          = 1
    flavor         = "m1.medium" # 4 GB
    roles          = ["nifi", "file_backup"]
    public_address = true
  }
  compute = {
    count          = 1
    flavor         = "m1.large" # 8 GB
    roles          = ["spark_master", "spark_worker", "spark_history", "airflow", "etl_release", "rollback_notifier", "file_backup", "statsd_exporter"]
    public_address = true
  }
  warehouse = {
    count          = 1
    flavor         = "m1.medium"
    roles          = ["postgresql", "pgbackrest", "postgres_exporter"]
    public_address = true
    volumes        = { data = { size = 20, mount = "/var/lib/postgresql", protected = false } }
  }
  observe = {
    count          = 1
    flavor         = "m1.medium"
    roles          = ["artifacts", "prometheus", "alertmanager", "file_backup", "blackbox_exporter", "elasticsearch", "elasticsearch_exporter"]
    public_address = true
  }
}
