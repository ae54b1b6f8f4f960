output "inventory" {
  description = "What `make apply` writes to inventories/<env>/hosts.yml."
  value       = module.inventory.inventory
}

output "rules" {
  description = "What may connect to what."
  value       = module.network.rules
}
