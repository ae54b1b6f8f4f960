variable "environment" {
  description = "Prefix of names in the cloud; also in the nodes' metadata."
  type        = string
}

variable "nodes" {
  description = <<-EOT
    The nodes, by group. A group `lake` of two makes the hosts lake1 and lake2.
      count           how many
      flavor, image   names in the cloud; image defaults to var.image
      roles           inventory groups of the hosts: names of roles, or <role>_<kind> (spark_worker)
      volumes         data volumes by name: size in GB, where it is mounted, volume type; `protected` ones cannot be destroyed by a plan
      affinity        how the hypervisors are chosen: none, affinity, anti-affinity, soft-affinity, soft-anti-affinity
      public_address  whether each gets a floating IP
      zones           availability zones, taken in turn; empty leaves it to the cloud
  EOT
  type = map(object({
    count  = number
    flavor = string
    image  = optional(string)
    roles  = list(string)
    volumes = optional(map(object({
      size      = number
      mount     = string
      type      = optional(string)
      protected = optional(bool, true)
    })), {})
    affinity       = optional(string, "none")
    public_address = optional(bool, false)
    zones          = optional(list(string), [])
  }))

  validation {
    condition     = alltrue([for name in keys(var.nodes) : can(regex("^[a-z]([a-z-]{0,30}[a-z])?$", name))])
    error_message = "Names of node groups have 1 to 32 small letters and hyphens inside (hosts are numbered after them): ${join(", ", [for name in keys(var.nodes) : "'${name}'" if !can(regex("^[a-z]([a-z-]{0,30}[a-z])?$", name))])}."
  }

  validation {
    condition     = alltrue([for node in var.nodes : node.count >= 0 && node.count <= 200 && floor(node.count) == node.count])
    error_message = "count is a whole number from 0 to 200: ${join(", ", [for name, node in var.nodes : "${name} has ${node.count}"])}."
  }

  validation {
    condition     = alltrue([for node in var.nodes : contains(["none", "affinity", "anti-affinity", "soft-affinity", "soft-anti-affinity"], node.affinity)])
    error_message = "affinity is one of none, affinity, anti-affinity, soft-affinity, soft-anti-affinity: ${join(", ", [for name, node in var.nodes : "${name} has '${node.affinity}'"])}."
  }

  validation {
    condition     = alltrue([for node in var.nodes : length(node.roles) > 0 && length(setsubtract(node.roles, keys(var.role_of))) == 0])
    error_message = "roles names what a host is for: ${join(", ", sort(var.known_roles))}, or <role>_<kind>. Not known or empty: ${join("; ", [for name, node in var.nodes : "${name} has [${join(", ", setsubtract(node.roles, keys(var.role_of)))}]" if length(node.roles) == 0 || length(setsubtract(node.roles, keys(var.role_of))) > 0])}."
  }

  validation {
    condition     = alltrue([for role in var.single_roles : sum(concat([0], [for node in var.nodes : contains(node.roles, role) ? node.count : 0])) <= 1])
    error_message = "These roles run on one host each, yet more have them: ${join(", ", [for role in var.single_roles : role if sum(concat([0], [for node in var.nodes : contains(node.roles, role) ? node.count : 0])) > 1])}."
  }

  validation {
    condition = alltrue(flatten([for node in var.nodes : [for name, volume in node.volumes :
      can(regex("^[a-z][a-z0-9]{0,15}$", name)) && volume.size >= 1 && floor(volume.size) == volume.size && can(regex("^/[^: ]+[^/: ]$", volume.mount))
    ]]))
    error_message = "A volume has a name of 1 to 16 small letters and digits, a size in whole GB, and a mount: an absolute path without spaces, colons or a slash at the end."
  }

  validation {
    condition     = alltrue([for node in var.nodes : length(distinct([for volume in node.volumes : volume.mount])) == length(node.volumes)])
    error_message = "Two volumes of one node group have the same mount."
  }

  validation {
    condition     = alltrue([for node in var.nodes : length(join(",", concat(node.roles, var.common_roles))) <= 200])
    error_message = "A node group's roles have more than 200 characters together, which its metadata cannot hold: split the group."
  }
}

variable "common_roles" {
  description = "Roles of every node."
  type        = list(string)
  default     = []
}

variable "known_roles" {
  description = "Names of the roles there are, for messages."
  type        = set(string)
}

variable "role_of" {
  description = "Role that each inventory group in use belongs to: spark_worker = spark. Unknown groups are not in it."
  type        = map(string)
}

variable "single_roles" {
  description = "Roles that cannot be spread over several hosts."
  type        = set(string)
  default     = ["airflow", "alertmanager", "artifacts", "elasticsearch", "etl_release", "minio", "nifi", "postgresql", "prometheus", "rollback_notifier", "spark_history", "spark_master"]
}

variable "image" {
  description = "Image of the nodes that name none: Debian 13 with cloud-init."
  type        = string
}

variable "data_volumes" {
  description = "false where the cloud has no block storage: data is then on the root disk and goes with the instance."
  type        = bool
  default     = true
}

variable "external_network" {
  description = "Pool of the public addresses."
  type        = string
}

variable "network_id" {
  description = "The nodes' network."
  type        = string
}

variable "subnet_id" {
  description = "The nodes' subnet."
  type        = string
}

variable "security_groups" {
  description = "Security group by role, and `member`."
  type        = map(string)
}

variable "login_user" {
  description = "User that Ansible logs in as, with sudo and no password."
  type        = string
  default     = "etl"
}

variable "ssh_public_keys" {
  description = "Keys that may log in as login_user, in OpenSSH's format."
  type        = list(string)

  validation {
    condition     = length(var.ssh_public_keys) > 0 && alltrue([for key in var.ssh_public_keys : can(regex("^(ssh-|ecdsa-|sk-)[a-z0-9@.-]+ [A-Za-z0-9+/=]+", key))])
    error_message = "ssh_public_keys takes lines such as 'ssh-ed25519 AAAA… name': at least one, and never a private key."
  }
}

variable "trusted_ca_certificates" {
  description = "Certificate authorities (PEM) that hosts trust from their first boot, for package mirrors behind one."
  type        = list(string)
  default     = []
}
