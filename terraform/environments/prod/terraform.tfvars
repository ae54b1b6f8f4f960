# prod: one way in, many workers on different hypervisors, data on volumes that no plan destroys.
environment      = "prod"
external_network = "public"
subnet_cidr      = "10.22.0.0/22"
image            = "debian-13-genericcloud"

nodes = {
  bastion = {
    count          = 1
    flavor         = "m1.small"
    roles          = ["bastion"]
    public_address = true
  }
  lake = {
    count   = 1
    flavor  = "m1.xlarge" # 16 GB
    roles   = ["minio"]
    volumes = { for drive in ["drive1", "drive2", "drive3", "drive4"] : drive => { size = 500, mount = "/var/lib/minio/${drive}" } }
  }
  ingest = {
    count   = 1
    flavor  = "m1.xlarge"
    roles   = ["nifi", "file_backup"]
    volumes = { data = { size = 200, mount = "/var/lib/nifi" } }
  }
  orchestrate = {
    count  = 1
    flavor = "m1.xlarge"
    roles  = ["airflow", "etl_release", "rollback_notifier", "file_backup", "statsd_exporter"]
  }
  master = {
    count  = 1
    flavor = "m1.medium"
    roles  = ["spark_master", "spark_history"]
  }
  worker = {
    count    = 12
    flavor   = "m1.xlarge"
    roles    = ["spark_worker"]
    affinity = "soft-anti-affinity" # anti-affinity where there are as many hypervisors
  }
  warehouse = {
    count   = 1
    flavor  = "m1.xlarge"
    roles   = ["postgresql", "pgbackrest", "postgres_exporter"]
    volumes = { data = { size = 1000, mount = "/var/lib/postgresql" } }
  }
  depot = {
    count  = 1
    flavor = "m1.medium" # builds with 9 GB of downloads and caches
    roles  = ["artifacts"]
  }
  observe = {
    count  = 1
    flavor = "m1.xlarge"
    roles  = ["prometheus", "alertmanager", "file_backup", "blackbox_exporter", "elasticsearch", "elasticsearch_exporter"]
    volumes = {
      metrics = { size = 100, mount = "/var/lib/prometheus" }
      logs    = { size = 200, mount = "/var/lib/elasticsearch" }
    }
  }
}
