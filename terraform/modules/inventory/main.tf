# The hosts in the structure of inventories/<env>/hosts.yml. Groups are roles; <role>_<kind> is a child of <role>.

locals {
  groups = sort(distinct(flatten([for node in var.nodes : node.roles])))
  roles  = sort(distinct([for group in local.groups : var.role_of[group]]))
  hosts  = { for group in local.groups : group => { for name, node in var.nodes : name => null if contains(node.roles, group) } }
  kinds  = { for role in local.roles : role => [for group in local.groups : group if group != role && var.role_of[group] == role] }
}
