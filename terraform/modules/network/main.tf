# A network of its own, and security groups that let through what the roles declare in meta/exports.yml.

data "openstack_networking_network_v2" "external" {
  name     = var.external_network
  external = true
}

resource "openstack_networking_network_v2" "this" {
  name           = var.environment
  admin_state_up = true
}

resource "openstack_networking_subnet_v2" "this" {
  name            = var.environment
  network_id      = openstack_networking_network_v2.this.id
  cidr            = var.subnet_cidr
  ip_version      = 4
  dns_nameservers = var.dns_servers
}

resource "openstack_networking_router_v2" "this" {
  name                = var.environment
  admin_state_up      = true
  external_network_id = data.openstack_networking_network_v2.external.id
}

resource "openstack_networking_router_interface_v2" "this" {
  router_id = openstack_networking_router_v2.this.id
  subnet_id = openstack_networking_subnet_v2.this.id
}

locals {
  roles     = toset([for role in var.roles : role if contains(keys(var.exports), role)])
  operators = merge({ for cidr in var.operator_cidrs : cidr => { cidr = cidr, role = null } }, local.bastion)
  # Where people come from when the nodes have no public address.
  bastion = contains(local.roles, "bastion") ? { bastion = { cidr = null, role = "bastion" } } : {}

  # Prometheus scrapes what `metrics` lists; the prober knocks at every port.
  clients = merge([for role in local.roles : {
    for name, port in var.exports[role].ports : "${role}-${name}" => {
      role = lookup(var.exports[role].served_by, name, role)
      name = name
      from = port
      to   = port + lookup(var.exports[role].spans, name, 0)
      clients = setunion(
        lookup(var.exports[role].clients, name, []),
        contains(var.exports[role].scraped, name) ? ["prometheus"] : [],
        ["blackbox_exporter"],
      )
    } if contains(local.roles, lookup(var.exports[role].served_by, name, role))
  }]...)

  service_rules = merge([for key, port in local.clients : merge(
    { for client in port.clients : "${key}-${client}" => merge(port, { cidr = null, client = client }) if contains(local.roles, client) },
    { for client in port.clients : "${key}-all" => merge(port, { cidr = null, client = "member" }) if client == "all" },
    { for source, operator in local.operators : "${key}-operators-${source}" => merge(port, { cidr = operator.cidr, client = operator.role }) if contains(port.clients, "operators") },
  )]...)

  ssh_rules = { for source, operator in local.operators : source => operator }

  security_groups = merge(
    { member = openstack_networking_secgroup_v2.member.id },
    { for role, group in openstack_networking_secgroup_v2.role : role => group.id },
  )
}

resource "openstack_networking_secgroup_v2" "member" {
  name                 = "${var.environment}-member"
  description          = "Every node of ${var.environment}: ssh from operators, all egress"
  delete_default_rules = true
  lifecycle {
    ignore_changes = [delete_default_rules] # an import does not know it, and it only matters at creation
  }
}

resource "openstack_networking_secgroup_v2" "role" {
  for_each             = local.roles
  name                 = "${var.environment}-${each.key}"
  description          = "Ports of the role ${each.key} (roles/${each.key}/meta/exports.yml)"
  delete_default_rules = true
  lifecycle {
    ignore_changes = [delete_default_rules]
  }
}

resource "openstack_networking_secgroup_rule_v2" "egress" {
  security_group_id = openstack_networking_secgroup_v2.member.id
  direction         = "egress"
  ethertype         = "IPv4"
}

resource "openstack_networking_secgroup_rule_v2" "ssh" {
  for_each          = local.ssh_rules
  security_group_id = openstack_networking_secgroup_v2.member.id
  description       = "ssh from ${each.key}"
  direction         = "ingress"
  ethertype         = "IPv4"
  protocol          = "tcp"
  port_range_min    = 22
  port_range_max    = 22
  remote_ip_prefix  = each.value.cidr
  remote_group_id   = each.value.role == null ? null : local.security_groups[each.value.role]
}

resource "openstack_networking_secgroup_rule_v2" "service" {
  for_each          = local.service_rules
  security_group_id = local.security_groups[each.value.role]
  description       = each.key
  direction         = "ingress"
  ethertype         = "IPv4"
  protocol          = "tcp"
  port_range_min    = each.value.from
  port_range_max    = each.value.to
  remote_ip_prefix  = each.value.cidr
  remote_group_id   = each.value.cidr == null ? local.security_groups[each.value.client] : null
}
