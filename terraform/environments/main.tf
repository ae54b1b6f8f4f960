# The same for every environment, which links to these files and differs in its terraform.tfvars alone.

terraform {
  required_version = ">= 1.10"
  required_providers {
    openstack = {
      source  = "terraform-provider-openstack/openstack"
      version = ">= 1.54, < 4"
    }
  }
}

provider "openstack" {
  cloud = coalesce(var.cloud, var.environment) # an entry of clouds.yaml: no credential is here or in the state
}

locals {
  roles_directory = "${path.module}/../../../roles"
  # Roles that every host has, or that only the lab's machine has: not inventory groups.
  not_groups = ["cloud_lab", "common", "firewall", "lab", "pki", "storage"]
  declared = {
    for file in fileset(local.roles_directory, "*/meta/exports.yml") : split("/", file)[0] => yamldecode(file("${local.roles_directory}/${file}"))
  }
  exports = merge(
    # The host that people jump through to nodes without a public address. It has no role of its own.
    { bastion = { ports = {}, clients = {}, scraped = [] } },
    { for role, declared in local.declared : role => {
      ports     = declared.ports
      clients   = declared.clients
      scraped   = keys(declared.metrics)
      spans     = try(declared.spans, {})
      served_by = try(declared.served_by, {})
    } if !contains(local.not_groups, role) },
  )

  # Inventory groups in use, and the role of each: the longest name that is it or begins it (spark_worker: spark).
  groups = distinct(concat(var.common_roles, flatten([for node in var.nodes : node.roles])))
  candidates = { for group in local.groups : group => sort([
    for role in keys(local.exports) : format("%03d %s", length(role), role) if group == role || startswith(group, "${role}_")
  ]) }
  role_of = { for group, candidates in local.candidates : group => split(" ", reverse(candidates)[0])[1] if length(candidates) > 0 }
  used    = toset([for group in concat(var.common_roles, flatten([for node in var.nodes : node.roles if node.count > 0])) : lookup(local.role_of, group, group)])
}

module "network" {
  source           = "../../modules/network"
  environment      = var.environment
  external_network = var.external_network
  subnet_cidr      = var.subnet_cidr
  dns_servers      = var.dns_servers
  operator_cidrs   = var.operator_cidrs
  exports          = local.exports
  roles            = local.used
}

module "nodes" {
  source                  = "../../modules/nodes"
  environment             = var.environment
  nodes                   = var.nodes
  common_roles            = var.common_roles
  known_roles             = keys(local.exports)
  role_of                 = local.role_of
  image                   = var.image
  data_volumes            = var.data_volumes
  external_network        = var.external_network
  network_id              = module.network.network_id
  subnet_id               = module.network.subnet_id
  security_groups         = module.network.security_groups
  login_user              = var.login_user
  ssh_public_keys         = var.ssh_public_keys
  trusted_ca_certificates = var.trusted_ca_certificates
}

module "inventory" {
  source         = "../../modules/inventory"
  nodes          = module.nodes.nodes
  role_of        = local.role_of
  operator_cidrs = var.operator_cidrs
}
