output "nodes" {
  description = "Each host: addresses, inventory groups, data volumes."
  value = { for name, node in local.nodes : name => {
    address        = openstack_networking_port_v2.this[name].all_fixed_ips[0]
    public_address = node.public_address ? openstack_networking_floatingip_associate_v2.this[name].floating_ip : null
    roles          = node.roles
    volumes        = { for volume, spec in node.volumes : volume => { id = local.volume_ids["${name}-${volume}"], mount = spec.mount } }
  } }
}
