output "inventory" {
  description = "The inventory, to be written as YAML."
  value = {
    all = {
      vars = { platform_operator_networks = sort(var.operator_cidrs) }
      hosts = { for name, node in var.nodes : name => merge(
        { ansible_host = coalesce(node.public_address, node.address), platform_address = node.address },
        { for key, volumes in { storage_volumes = [for volume in node.volumes : { id = volume.id, mount = volume.mount }] } : key => volumes if length(volumes) > 0 },
      ) }
      children = { for role in local.roles : role => merge(
        { for key, hosts in { hosts = lookup(local.hosts, role, {}) } : key => hosts if length(hosts) > 0 },
        { for key, kinds in { children = { for kind in local.kinds[role] : kind => { hosts = local.hosts[kind] } } } : key => kinds if length(kinds) > 0 },
      ) }
    }
  }
}
