variable "nodes" {
  description = "Each host: addresses, inventory groups, data volumes (output of the module nodes)."
  type = map(object({
    address        = string
    public_address = optional(string)
    roles          = list(string)
    volumes        = optional(map(object({ id = string, mount = string })), {})
  }))
}

variable "role_of" {
  description = "Role that each inventory group belongs to: spark_worker = spark."
  type        = map(string)
}

variable "operator_cidrs" {
  description = "Networks that people and the Ansible controller come from; the hosts' own firewalls let them in."
  type        = set(string)
}
