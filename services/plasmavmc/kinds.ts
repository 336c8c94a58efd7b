import { defineKind } from "@ultracloud/platform";
import type { Image, Node, Vm } from "./domain/types.ts";

export const imageKind = defineKind<Image>({ name: "image", prefix: "img" });
export const vmKind = defineKind<Vm>({ name: "vm", prefix: "vm", title: "VM" });
/** Nodes belong to no project; their name is their id. */
export const nodeKind = defineKind<Node>({ name: "node" });

/** Row: a VM uses an image. */
export function imageUseKey(imageId: string, vmId = ""): string {
  return `imageuse|${imageId}|${vmId}`;
}

/** Row: an image has this content. */
export function contentKey(sha256: string, imageId = ""): string {
  return `content|${sha256}|${imageId}`;
}

/** Row: a VM's user data and keys. */
export function guestKey(vmId: string): string {
  return `guest|${vmId}`;
}

/** Row: what VMs have reserved on a node, by VM id. */
export function allocationKey(node: string): string {
  return `allocation|${node}`;
}

/** Row: what VMs of a project have reserved of its quota, by VM id. */
export function quotaKey(project: string): string {
  return `quota|${project}`;
}
