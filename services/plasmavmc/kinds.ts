import { defineKind } from "@ultracloud/platform";
import type {
  Image,
  ImageAlias,
  Node,
  PlacementGroup,
  Snapshot,
  SnapshotSchedule,
  SshKey,
  StoredFlavor,
  Vm,
  Volume,
} from "./domain/types.ts";

export const imageKind = defineKind<Image>({ name: "image", prefix: "img" });
export const vmKind = defineKind<Vm>({ name: "vm", prefix: "vm", title: "VM" });
/** Nodes and flavors belong to no project; their name is their id. */
export const nodeKind = defineKind<Node>({ name: "node" });
export const flavorKind = defineKind<StoredFlavor>({ name: "flavor" });
export const volumeKind = defineKind<Volume>({ name: "volume", prefix: "vol" });
export const snapshotKind = defineKind<Snapshot>({ name: "snapshot", prefix: "snap" });
export const scheduleKind = defineKind<SnapshotSchedule>({ name: "snapshot_schedule", prefix: "sched" });
export const sshKeyKind = defineKind<SshKey>({ name: "ssh_key", prefix: "ssh", title: "SSH key" });
export const groupKind = defineKind<PlacementGroup>({ name: "placement_group", prefix: "pg" });
export const aliasKind = defineKind<ImageAlias>({ name: "image_alias", prefix: "ial" });

/** Row: a VM or a version of an alias uses an image. */
export function imageUseKey(imageId: string, userId = ""): string {
  return `imageuse|${imageId}|${userId}`;
}

/** Row: an image has this content. */
export function contentKey(sha256: string, imageId = ""): string {
  return `content|${sha256}|${imageId}`;
}

/** Row: a VM's user data and keys. */
export function guestKey(vmId: string): string {
  return `guest|${vmId}`;
}

/** Row: what is reserved on a node, by id of the VM or volume. */
export function allocationKey(node: string): string {
  return `allocation|${node}`;
}

/** Row: what is reserved of a project's quota, by id of the VM or volume. */
export function quotaKey(project: string): string {
  return `quota|${project}`;
}

/**
 * Row: the VMs of a placement group, each with its worker ("": not placed). One row, so that of two placements that
 * would break the group one sees the other.
 */
export function groupMembersKey(groupId: string): string {
  return `group|${groupId}`;
}

export type GroupMembers = Readonly<Record<string, string>>;
