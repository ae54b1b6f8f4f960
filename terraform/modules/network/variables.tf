variable "environment" {
  description = "Prefix of every name in the cloud."
  type        = string
}

variable "external_network" {
  description = "Name of the network that the router and the public addresses are on."
  type        = string
}

variable "subnet_cidr" {
  description = "Addresses of the nodes."
  type        = string

  validation {
    condition     = can(cidrnetmask(var.subnet_cidr)) && try(cidrsubnet(var.subnet_cidr, 0, 0) == var.subnet_cidr, false)
    error_message = "subnet_cidr is '${var.subnet_cidr}': write an IPv4 network such as 10.20.0.0/24."
  }
}

variable "dns_servers" {
  description = "Resolvers that DHCP names; empty leaves it to the cloud."
  type        = list(string)
  default     = []
}

variable "operator_cidrs" {
  description = "Networks that people and the Ansible controller come from: ssh and the ports that exports.yml opens to `operators`."
  type        = set(string)

  validation {
    # Neutron answers with a network's own address: another one would be a change at every plan.
    condition     = alltrue([for cidr in var.operator_cidrs : can(cidrnetmask(cidr)) && try(cidrsubnet(cidr, 0, 0) == cidr, false) && !endswith(cidr, "/0")])
    error_message = "operator_cidrs takes IPv4 networks such as 198.51.100.0/24 or 198.51.100.7/32, by their own address, and never the whole Internet (/0)."
  }
}

variable "exports" {
  description = <<-EOT
    What each role declares in meta/exports.yml: ports, their clients, which of them are scraped; of which the number is the first (how many
    further ports the service may use), and which another role's nodes have.
  EOT
  type = map(object({
    ports     = map(number)
    clients   = map(list(string))
    scraped   = set(string)
    spans     = optional(map(number), {})
    served_by = optional(map(string), {})
  }))
}

variable "roles" {
  description = "Roles that some node has; the others get no security group."
  type        = set(string)
}
