mock_provider "openstack" {}

variables {
  environment      = "dev"
  external_network = "public"
  subnet_cidr      = "10.20.0.0/24"
  operator_cidrs   = ["198.51.100.0/24"]
  roles            = ["minio", "nifi", "spark", "node_exporter", "airflow", "prometheus", "artifacts"]
  exports = {
    artifacts         = { ports = { depot = 8444 }, clients = { depot = ["all"] }, scraped = [] }
    minio             = { ports = { api = 9000, console = 9001 }, clients = { api = ["nifi", "spark", "airflow"], console = ["operators"] }, scraped = ["api"] }
    nifi              = { ports = { https = 8443 }, clients = { https = ["operators"] }, scraped = [] }
    spark             = { ports = { master = 7077, driver = 7100 }, clients = { master = ["airflow"], driver = ["spark"] }, scraped = [], spans = { driver = 15 }, served_by = { driver = "airflow" } }
    node_exporter     = { ports = { web = 9100 }, clients = { web = ["prometheus"] }, scraped = ["web"] }
    prometheus        = { ports = { web = 9090 }, clients = { web = ["operators"] }, scraped = [] }
    airflow           = { ports = { api = 8080 }, clients = { api = ["operators"] }, scraped = [] }
    blackbox_exporter = { ports = { web = 9115 }, clients = { web = ["prometheus"] }, scraped = [] }
    bastion           = { ports = {}, clients = {}, scraped = [] }
  }
}

run "declared_ports_and_nothing_else" {
  assert {
    condition = jsonencode(output.rules) == jsonencode({
      "airflow-api-operators-198.51.100.0/24"    = { role = "airflow", ports = "8080", source = "198.51.100.0/24" }
      "artifacts-depot-all"                      = { role = "artifacts", ports = "8444", source = "member" }
      "minio-api-airflow"                        = { role = "minio", ports = "9000", source = "airflow" }
      "minio-api-nifi"                           = { role = "minio", ports = "9000", source = "nifi" }
      "minio-api-spark"                          = { role = "minio", ports = "9000", source = "spark" }
      "minio-api-prometheus"                     = { role = "minio", ports = "9000", source = "prometheus" }
      "minio-console-operators-198.51.100.0/24"  = { role = "minio", ports = "9001", source = "198.51.100.0/24" }
      "nifi-https-operators-198.51.100.0/24"     = { role = "nifi", ports = "8443", source = "198.51.100.0/24" }
      "spark-driver-spark"                       = { role = "airflow", ports = "7100-7115", source = "spark" }
      "spark-master-airflow"                     = { role = "spark", ports = "7077", source = "airflow" }
      "node_exporter-web-prometheus"             = { role = "node_exporter", ports = "9100", source = "prometheus" }
      "prometheus-web-operators-198.51.100.0/24" = { role = "prometheus", ports = "9090", source = "198.51.100.0/24" }
    })
    error_message = "rules: ${jsonencode(output.rules)}"
  }

  assert {
    condition     = keys(openstack_networking_secgroup_rule_v2.ssh) == ["198.51.100.0/24"]
    error_message = "ssh is for operators alone: ${join(", ", keys(openstack_networking_secgroup_rule_v2.ssh))}"
  }

  assert {
    condition = alltrue(concat(
      [for group in openstack_networking_secgroup_v2.role : group.delete_default_rules],
      [openstack_networking_secgroup_v2.member.delete_default_rules],
    ))
    error_message = "the cloud's default rules must go"
  }

  assert {
    condition = alltrue([for rule in openstack_networking_secgroup_rule_v2.service :
      rule.direction == "ingress" && rule.protocol == "tcp" && rule.port_range_min >= 1
    ])
    error_message = "a service's rule is for TCP that comes in"
  }

  assert {
    condition     = openstack_networking_secgroup_rule_v2.service["spark-driver-spark"].port_range_max == 7115
    error_message = "a service that counts up needs the span of its ports"
  }
}

run "people_come_through_the_bastion_too" {
  command = plan
  variables {
    roles = ["minio", "bastion"]
  }
  assert {
    condition     = jsonencode(sort([for rule in output.rules : rule.source])) == jsonencode(["198.51.100.0/24", "bastion"])
    error_message = jsonencode(output.rules)
  }
  assert {
    condition     = keys(openstack_networking_secgroup_rule_v2.ssh) == ["198.51.100.0/24", "bastion"]
    error_message = "ssh from the bastion to the other nodes"
  }
}

run "the_prober_knocks_at_every_port" {
  command = plan
  variables {
    roles = ["nifi", "minio", "blackbox_exporter"]
  }
  assert {
    condition     = length([for rule in output.rules : rule if rule.source == "blackbox_exporter"]) == 4
    error_message = jsonencode(output.rules)
  }
}

run "not_the_whole_internet" {
  command = plan
  variables {
    operator_cidrs = ["0.0.0.0/0"]
  }
  expect_failures = [var.operator_cidrs]
}

run "not_the_whole_internet_in_other_words" {
  command = plan
  variables {
    operator_cidrs = ["0.0.0.0/00"]
  }
  expect_failures = [var.operator_cidrs]
}

run "a_network_goes_by_its_own_address" {
  command = plan
  variables {
    operator_cidrs = ["198.51.100.7/24"]
  }
  expect_failures = [var.operator_cidrs]
}

run "a_subnet_goes_by_its_own_address" {
  command = plan
  variables {
    subnet_cidr = "10.20.0.1/24"
  }
  expect_failures = [var.subnet_cidr]
}

run "a_subnet_is_a_network" {
  command = plan
  variables {
    subnet_cidr = "10.20.0.0"
  }
  expect_failures = [var.subnet_cidr]
}
