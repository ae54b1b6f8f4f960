variable "environment" {
  description = "Name of the environment: prefix in the cloud, folder in inventories/."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{0,15}$", var.environment))
    error_message = "environment has 1 to 16 small letters, digits and hyphens."
  }
}

variable "cloud" {
  description = "Entry of clouds.yaml; by default the one named like the environment."
  type        = string
  default     = null
}

variable "external_network" {
  description = "Name of the cloud's external network."
  type        = string
}

variable "subnet_cidr" {
  description = "Addresses of the nodes."
  type        = string
}

variable "dns_servers" {
  description = "Resolvers that DHCP names; empty leaves it to the cloud."
  type        = list(string)
  default     = []
}

variable "operator_cidrs" {
  description = "Networks that people and the Ansible controller come from."
  type        = set(string)
}

variable "image" {
  description = "Name of the Debian 13 image, with cloud-init (Debian's genericcloud)."
  type        = string
}

variable "nodes" {
  description = "The nodes by group: typed, described and checked in modules/nodes/variables.tf."
  type        = any

  # Six addresses are not for nodes: the network's own two, the router's, those of the cloud's DHCP. What is not a number is told by the modules.
  validation {
    condition     = try(sum(concat([0], [for node in var.nodes : node.count])) <= pow(2, 32 - split("/", var.subnet_cidr)[1]) - 6, true)
    error_message = "The nodes are more than subnet_cidr ${var.subnet_cidr} has addresses for: write a larger network before the first apply, or fewer nodes."
  }
}

variable "common_roles" {
  description = "Roles of every node."
  type        = list(string)
  default     = ["log_shipper", "node_exporter"]
}

variable "data_volumes" {
  description = "false where the cloud has no block storage."
  type        = bool
  default     = true
}

variable "login_user" {
  description = "User that Ansible logs in as."
  type        = string
  default     = "etl"
}

variable "ssh_public_keys" {
  description = "Keys that may log in as login_user."
  type        = list(string)
}

variable "trusted_ca_certificates" {
  description = "Certificate authorities (PEM) that hosts trust from their first boot."
  type        = list(string)
  default     = []
}
