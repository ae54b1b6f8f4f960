# Plans alone: what is protected could not be torn down after an apply.
mock_provider "openstack" {
  override_during = plan

  mock_resource "openstack_networking_port_v2" {
    defaults = { all_fixed_ips = ["10.20.0.10"] }
  }
  mock_resource "openstack_networking_floatingip_v2" {
    defaults = { address = "203.0.113.10" }
  }
  mock_resource "openstack_blockstorage_volume_v3" {
    defaults = { id = "11111111-2222-3333-4444-555555555555" }
  }
  mock_resource "openstack_compute_servergroup_v2" {
    defaults = { id = "server-group" }
  }
}

variables {
  environment      = "dev"
  image            = "debian-13"
  external_network = "public"
  network_id       = "net"
  subnet_id        = "subnet"
  security_groups  = { member = "sg-member", minio = "sg-minio", spark = "sg-spark", node_exporter = "sg-exporter" }
  ssh_public_keys  = ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOq operator"]
  common_roles     = ["node_exporter"]
  known_roles      = ["minio", "spark", "node_exporter"]
  role_of          = { minio = "minio", spark_master = "spark", spark_worker = "spark", node_exporter = "node_exporter" }
  nodes = {
    lake = {
      count          = 1
      flavor         = "m1.large"
      roles          = ["minio"]
      public_address = true
      volumes = {
        data    = { size = 100, mount = "/var/lib/minio" }
        scratch = { size = 10, mount = "/srv/scratch", protected = false, type = "fast" }
      }
    }
    worker = {
      count    = 3
      flavor   = "m1.small"
      image    = "debian-13-gpu"
      roles    = ["spark_worker"]
      affinity = "anti-affinity"
      zones    = ["az1", "az2"]
    }
    idle = {
      count  = 0
      flavor = "m1.small"
      roles  = ["spark_master"]
    }
  }
}

run "one_map_makes_all" {
  command = plan

  assert {
    condition     = keys(openstack_compute_instance_v2.this) == ["lake1", "worker1", "worker2", "worker3"]
    error_message = join(", ", keys(openstack_compute_instance_v2.this))
  }
  assert {
    condition     = [for name in ["worker1", "worker2", "worker3"] : openstack_compute_instance_v2.this[name].availability_zone] == ["az1", "az2", "az1"]
    error_message = "zones are taken in turn"
  }
  assert {
    condition = openstack_compute_instance_v2.this["lake1"].metadata == tomap({
      environment    = "dev"
      groups         = "minio,node_exporter"
      volume_data    = "11111111-2222-3333-4444-555555555555:/var/lib/minio"
      volume_scratch = "11111111-2222-3333-4444-555555555555:/srv/scratch"
    })
    error_message = jsonencode(openstack_compute_instance_v2.this["lake1"].metadata)
  }
  assert {
    condition     = openstack_compute_instance_v2.this["worker2"].metadata["groups"] == "node_exporter,spark,spark_worker"
    error_message = "a kind's host is also in its role's group"
  }
  assert {
    condition     = openstack_networking_port_v2.this["worker1"].security_group_ids == toset(["sg-member", "sg-exporter", "sg-spark"])
    error_message = jsonencode(openstack_networking_port_v2.this["worker1"].security_group_ids)
  }
  assert {
    condition     = keys(openstack_networking_floatingip_associate_v2.this) == ["lake1"] && output.nodes["lake1"].public_address == "203.0.113.10" && output.nodes["worker1"].public_address == null
    error_message = "only lake asks for a public address"
  }
  assert {
    condition     = keys(openstack_blockstorage_volume_v3.protected) == ["lake1-data"] && keys(openstack_blockstorage_volume_v3.disposable) == ["lake1-scratch"]
    error_message = "`protected` chooses the resource"
  }
  assert {
    condition     = keys(openstack_compute_volume_attach_v2.this) == ["lake1-data", "lake1-scratch"]
    error_message = "every volume is attached"
  }
  assert {
    condition     = keys(openstack_compute_servergroup_v2.this) == ["worker"] && length([for node in openstack_compute_instance_v2.this : node if length(node.scheduler_hints) > 0]) == 3
    error_message = "the workers share a server group, nobody else has one"
  }
  assert {
    condition     = toset(keys(data.openstack_images_image_v2.this)) == toset(["debian-13", "debian-13-gpu"])
    error_message = "an image is looked up once"
  }
  assert {
    condition = yamldecode(openstack_compute_instance_v2.this["lake1"].user_data) == {
      users        = [{ name = "etl", shell = "/bin/bash", sudo = "ALL=(ALL) NOPASSWD:ALL", lock_passwd = true, ssh_authorized_keys = ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOq operator"] }]
      disable_root = true
      ssh_pwauth   = false
      ca_certs     = { trusted = [] }
    }
    error_message = "cloud-init makes the login user and trust, and nothing else"
  }
}

run "without_block_storage" {
  command = plan
  variables {
    data_volumes = false
  }
  assert {
    condition     = length(openstack_compute_volume_attach_v2.this) == 0 && length(openstack_compute_instance_v2.this["lake1"].metadata) == 2
    error_message = "no volume is left"
  }
}

run "misspelt_role" {
  command = plan
  variables {
    nodes = { lake = { count = 1, flavor = "m1.small", roles = ["minoi"] } }
  }
  expect_failures = [var.nodes]
}

run "unknown_affinity" {
  command = plan
  variables {
    nodes = { lake = { count = 1, flavor = "m1.small", roles = ["minio"], affinity = "apart" } }
  }
  expect_failures = [var.nodes]
}

run "numbered_group_name" {
  command = plan
  variables {
    nodes = { lake1 = { count = 1, flavor = "m1.small", roles = ["minio"] } }
  }
  expect_failures = [var.nodes]
}

run "half_a_host" {
  command = plan
  variables {
    nodes = { lake = { count = 1.5, flavor = "m1.small", roles = ["minio"] } }
  }
  expect_failures = [var.nodes]
}

run "two_stores" {
  command = plan
  variables {
    nodes = { lake = { count = 2, flavor = "m1.small", roles = ["minio"] } }
  }
  expect_failures = [var.nodes]
}

run "relative_mount" {
  command = plan
  variables {
    nodes = { lake = { count = 1, flavor = "m1.small", roles = ["minio"], volumes = { data = { size = 10, mount = "var/lib" } } } }
  }
  expect_failures = [var.nodes]
}

run "two_volumes_on_one_mount" {
  command = plan
  variables {
    nodes = { lake = { count = 1, flavor = "m1.small", roles = ["minio"], volumes = { a = { size = 10, mount = "/srv/a" }, b = { size = 10, mount = "/srv/a" } } } }
  }
  expect_failures = [var.nodes]
}

run "private_key" {
  command = plan
  variables {
    ssh_public_keys = ["-----BEGIN OPENSSH PRIVATE KEY-----"]
  }
  expect_failures = [var.ssh_public_keys]
}
