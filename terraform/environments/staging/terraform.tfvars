# staging: prod's shape, smaller. People come in through the bastion.
environment      = "staging"
external_network = "public"
subnet_cidr      = "10.21.0.0/24"
image            = "debian-13-genericcloud"

nodes = {
  bastion = {
    count          = 1
    flavor         = "m1.small"
    roles          = ["bastion"]
    public_address = true
  }
  sources = {
    count  = 1
    flavor = "m1.small"
    roles  = ["sources"]
  }
  lake = {
    count   = 1
    flavor  = "m1.medium"
    roles   = ["minio"]
    volumes = { for drive in ["drive1", "drive2", "drive3", "drive4"] : drive => { size = 50, mount = "/var/lib/minio/${drive}" } }
  }
  ingest = {
    count   = 1
    flavor  = "m1.large"
    roles   = ["nifi", "file_backup"]
    volumes = { data = { size = 50, mount = "/var/lib/nifi" } }
  }
  orchestrate = {
    count  = 1
    flavor = "m1.large"
    roles  = ["airflow", "etl_release", "rollback_notifier", "file_backup", "statsd_exporter", "spark_master", "spark_history"]
  }
  worker = {
    count    = 2
    flavor   = "m1.large"
    roles    = ["spark_worker"]
    affinity = "soft-anti-affinity"
  }
  warehouse = {
    count   = 1
    flavor  = "m1.large"
    roles   = ["postgresql", "pgbackrest", "postgres_exporter"]
    volumes = { data = { size = 100, mount = "/var/lib/postgresql" } }
  }
  observe = {
    count  = 1
    flavor = "m1.large"
    roles  = ["artifacts", "prometheus", "alertmanager", "file_backup", "blackbox_exporter", "elasticsearch", "elasticsearch_exporter"]
    volumes = {
      metrics = { size = 20, mount = "/var/lib/prometheus" }
      logs    = { size = 50, mount = "/var/lib/elasticsearch" }
    }
  }
}
