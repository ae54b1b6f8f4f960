variables {
  operator_cidrs = ["198.51.100.7/32", "198.51.100.0/28"]
  role_of        = { minio = "minio", node_exporter = "node_exporter", spark_master = "spark", spark_worker = "spark", bastion = "bastion" }
  nodes = {
    bastion1 = { address = "10.0.0.5", public_address = "203.0.113.5", roles = ["bastion", "node_exporter"] }
    lake1 = {
      address = "10.0.0.6"
      roles   = ["minio", "node_exporter"]
      volumes = { data = { id = "0a1b", mount = "/var/lib/minio" } }
    }
    work1 = { address = "10.0.0.7", roles = ["spark_master", "spark_worker"] }
    work2 = { address = "10.0.0.8", roles = ["spark_worker"] }
  }
}

run "structure" {
  assert {
    condition = output.inventory.all.hosts == {
      bastion1 = { ansible_host = "203.0.113.5", platform_address = "10.0.0.5" }
      lake1    = { ansible_host = "10.0.0.6", platform_address = "10.0.0.6", storage_volumes = [{ id = "0a1b", mount = "/var/lib/minio" }] }
      work1    = { ansible_host = "10.0.0.7", platform_address = "10.0.0.7" }
      work2    = { ansible_host = "10.0.0.8", platform_address = "10.0.0.8" }
    }
    error_message = "hosts: ${jsonencode(output.inventory.all.hosts)}"
  }

  assert {
    condition     = output.inventory.all.vars == { platform_operator_networks = tolist(["198.51.100.0/28", "198.51.100.7/32"]) }
    error_message = "vars: ${jsonencode(output.inventory.all.vars)}"
  }

  assert {
    condition = jsonencode(output.inventory.all.children) == jsonencode({
      bastion       = { hosts = { bastion1 = null } }
      minio         = { hosts = { lake1 = null } }
      node_exporter = { hosts = { bastion1 = null, lake1 = null } }
      spark = { children = {
        spark_master = { hosts = { work1 = null } }
        spark_worker = { hosts = { work1 = null, work2 = null } }
      } }
    })
    error_message = "children: ${jsonencode(output.inventory.all.children)}"
  }
}

run "no_nodes" {
  variables { nodes = {} }
  assert {
    condition     = jsonencode(output.inventory) == jsonencode({ all = { vars = { platform_operator_networks = ["198.51.100.0/28", "198.51.100.7/32"] }, hosts = {}, children = {} } })
    error_message = jsonencode(output.inventory)
  }
}
