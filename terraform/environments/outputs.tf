output "inventory" {
  description = "What `make apply` writes to inventories/<env>/hosts.yml."
  value       = module.inventory.inventory
}
