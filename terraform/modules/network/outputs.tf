output "network_id" {
  description = "The nodes' network."
  value       = openstack_networking_network_v2.this.id
}

output "subnet_id" {
  description = "The nodes' subnet, once it is routed: a public address needs that."
  value       = openstack_networking_subnet_v2.this.id
  depends_on  = [openstack_networking_router_interface_v2.this]
}

output "security_groups" {
  description = "Security group by role, and `member`, which every node is in."
  value       = local.security_groups
}

output "rules" {
  description = "What may connect: name of the rule to ports and source."
  value = { for key, rule in local.service_rules : key => {
    role   = rule.role
    ports  = rule.from == rule.to ? tostring(rule.from) : "${rule.from}-${rule.to}"
    source = coalesce(rule.cidr, rule.client)
  } }
}
