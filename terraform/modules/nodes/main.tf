# Instances, their addresses and their data volumes, all from one map of node groups.

locals {
  nodes = merge([for group, node in var.nodes : {
    for index in range(node.count) : "${group}${index + 1}" => merge(node, {
      group   = group
      roles   = distinct(concat(node.roles, var.common_roles))
      image   = coalesce(node.image, var.image)
      volumes = var.data_volumes ? node.volumes : {}
      zone    = length(node.zones) == 0 ? null : node.zones[index % length(node.zones)]
    })
  }]...)

  # An inventory group and the role that it belongs to: spark_worker is also in spark.
  groups = { for name, node in local.nodes : name => sort(distinct(concat(node.roles, [for role in node.roles : var.role_of[role]]))) }

  volumes = merge([for name, node in local.nodes : {
    for volume, spec in node.volumes : "${name}-${volume}" => merge(spec, { node = name, name = volume })
  }]...)
  volume_ids = { for key, volume in merge(openstack_blockstorage_volume_v3.protected, openstack_blockstorage_volume_v3.disposable) : key => volume.id }

  user_data = join("\n", ["#cloud-config", yamlencode({
    users = [{
      name                = var.login_user
      shell               = "/bin/bash"
      sudo                = "ALL=(ALL) NOPASSWD:ALL"
      lock_passwd         = true
      ssh_authorized_keys = var.ssh_public_keys
    }]
    disable_root = true
    ssh_pwauth   = false
    ca_certs     = { trusted = var.trusted_ca_certificates }
  })])
}

data "openstack_images_image_v2" "this" {
  for_each    = toset([for node in local.nodes : node.image])
  name        = each.key
  most_recent = true
}

resource "openstack_compute_servergroup_v2" "this" {
  for_each = { for name, node in var.nodes : name => node if node.affinity != "none" }
  name     = "${var.environment}-${each.key}"
  policies = [each.value.affinity]
}

# A port of its own keeps the address when the instance is replaced.
resource "openstack_networking_port_v2" "this" {
  for_each           = local.nodes
  name               = "${var.environment}-${each.key}"
  network_id         = var.network_id
  admin_state_up     = true
  security_group_ids = [for role in concat(["member"], local.groups[each.key]) : var.security_groups[role] if contains(keys(var.security_groups), role)]
  fixed_ip {
    subnet_id = var.subnet_id
  }
  lifecycle {
    ignore_changes = [fixed_ip] # an import does not know it: the address stays
  }
}

resource "openstack_compute_instance_v2" "this" {
  for_each            = local.nodes
  name                = each.key
  flavor_name         = each.value.flavor
  image_id            = data.openstack_images_image_v2.this[each.value.image].id
  user_data           = local.user_data
  availability_zone   = each.value.zone
  stop_before_destroy = true # file systems are left clean on the volumes that stay

  # The dynamic inventory reads these (inventories/<env>/openstack.yml).
  metadata = merge(
    { environment = var.environment, groups = join(",", local.groups[each.key]) },
    { for name, volume in each.value.volumes : "volume_${name}" => "${local.volume_ids["${each.key}-${name}"]}:${volume.mount}" },
  )

  network {
    port = openstack_networking_port_v2.this[each.key].id
  }

  dynamic "scheduler_hints" {
    for_each = each.value.affinity == "none" ? [] : [openstack_compute_servergroup_v2.this[each.value.group].id]
    content {
      group = scheduler_hints.value
    }
  }

  vendor_options {
    ignore_resize_confirmation = true
  }

  lifecycle {
    # A newer image or another key would replace every node at once: replace nodes one by one (docs/runbooks/cloud-replace-node.md).
    # An import does not know the port either, which is replaced with its instance and never without it.
    ignore_changes       = [image_id, user_data, availability_zone, scheduler_hints, network]
    replace_triggered_by = [openstack_networking_port_v2.this[each.key].id]
  }
}

resource "openstack_networking_floatingip_v2" "this" {
  for_each    = { for name, node in local.nodes : name => node if node.public_address }
  pool        = var.external_network
  description = "${var.environment}-${each.key}"
}

resource "openstack_networking_floatingip_associate_v2" "this" {
  for_each    = openstack_networking_floatingip_v2.this
  floating_ip = each.value.address
  port_id     = openstack_networking_port_v2.this[each.key].id
}

# prevent_destroy takes no variable: two resources, and `protected` chooses.
resource "openstack_blockstorage_volume_v3" "protected" {
  for_each             = { for key, volume in local.volumes : key => volume if volume.protected }
  name                 = "${var.environment}-${each.key}"
  size                 = each.value.size
  volume_type          = each.value.type
  enable_online_resize = true
  lifecycle {
    prevent_destroy = true
  }
}

resource "openstack_blockstorage_volume_v3" "disposable" {
  for_each             = { for key, volume in local.volumes : key => volume if !volume.protected }
  name                 = "${var.environment}-${each.key}"
  size                 = each.value.size
  volume_type          = each.value.type
  enable_online_resize = true
}

resource "openstack_compute_volume_attach_v2" "this" {
  for_each    = local.volumes
  instance_id = openstack_compute_instance_v2.this[each.value.node].id
  volume_id   = local.volume_ids[each.key]
}
