terraform {
  required_version = ">= 1.10"
  required_providers {
    openstack = {
      source  = "terraform-provider-openstack/openstack"
      version = ">= 1.54, < 4"
    }
  }
}
