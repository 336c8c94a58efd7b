import { checkLabels, checkName, fault, invalidField, utf8 } from "@ultracloud/base";
import type { CreateVmRequest } from "@ultracloud/proto/plasmavmc/v1";
import { cooldownMsDefault, cooldownMsMax, cooldownMsMin } from "./domain/restart.ts";
import { checkSshKey } from "./domain/ssh_key.ts";
import type { Flavor, GuestData, Image, MachineType, NodeLossPolicy, RestartState } from "./domain/types.ts";
import { fromMachineType, fromNodeLossPolicy, fromRestartPolicy } from "./wire_storage.ts";

export const nicsMax = 4;
/** Slots of a machine for disks beside its root disk. */
export const volumesMax = 8;
export const securityGroupsMax = 8;
const placementGroupsMax = 4;
const userDataBytesMax = 64 * 1024;
const sshKeysMax = 16;

/** What a caller asks for, checked as far as the request alone says. */
export interface VmRequest {
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly nodeSelector: Readonly<Record<string, string>>;
  readonly guest: GuestData;
  readonly restart: RestartState;
  readonly nodeLoss: NodeLossPolicy;
  readonly machineType: MachineType;
}

/** How long a restart by policy waits for the next, as asked. */
export function checkCooldown(ms: bigint): number {
  if (ms === 0n) return cooldownMsDefault;
  if (ms >= cooldownMsMin && ms <= cooldownMsMax) return Number(ms);
  throw invalidField(
    "restartCooldownMs",
    `Cannot wait ${ms} ms between restarts: wanted ${cooldownMsMin} to ${cooldownMsMax}`,
  );
}

function checkCount(count: number, max: number, field: string, title: string): void {
  if (count > max) throw invalidField(field, `Cannot use ${count} ${title}: wanted at most ${max}`);
}

export function checkVmRequest(request: CreateVmRequest): VmRequest {
  checkLabels(request.labels);
  checkLabels(request.nodeSelector, "nodeSelector");
  checkCount(request.subnets.length, nicsMax, "subnets", "NICs");
  checkCount(request.securityGroups.length, securityGroupsMax, "securityGroups", "groups");
  checkCount(request.groups.length, placementGroupsMax, "groups", "placement groups");
  checkCount(request.volumes.length, volumesMax, "volumes", "volumes");
  // prismnet's own words about them would be taken for a failure of ours.
  checkNames(request.subnets, "subnets");
  checkNames(request.securityGroups, "securityGroups");
  checkNames(request.groups, "groups");
  checkNames(request.sshKeys, "sshKeys");
  checkNames(request.volumes.map((v) => v.volume), "volumes");
  const bytes = utf8.encode(request.userData).length;
  if (bytes > userDataBytesMax) {
    throw invalidField("userData", `Cannot pass ${bytes} bytes of user data: wanted at most ${userDataBytesMax}`);
  }
  checkCount(request.sshAuthorizedKeys.length + request.sshKeys.length, sshKeysMax, "sshAuthorizedKeys", "keys");
  const sshAuthorizedKeys = request.sshAuthorizedKeys.map((text, i) => checkSshKey(text, `sshAuthorizedKeys.${i}`));
  if (request.image === "") throw invalidField("image", "Cannot create a VM without an image");
  return {
    name: checkName(request.name, "name"),
    labels: request.labels,
    nodeSelector: request.nodeSelector,
    guest: { userData: request.userData, sshAuthorizedKeys },
    restart: {
      policy: fromRestartPolicy(request.restartPolicy),
      cooldownMs: checkCooldown(request.restartCooldownMs),
      count: 0,
    },
    nodeLoss: fromNodeLossPolicy(request.nodeLossPolicy),
    machineType: fromMachineType(request.machineType),
  };
}

export function checkNames(namesOrIds: readonly string[], field: string): void {
  for (const [i, text] of namesOrIds.entries()) {
    if (/^[A-Za-z0-9_-]{1,80}$/.test(text)) continue;
    throw invalidField(`${field}.${i}`, `Cannot use ${JSON.stringify(text.slice(0, 80))}: wanted a name or an id`);
  }
}

/** An image that is a disk needs room for it; a kernel bundle needs none. */
export function checkFits(image: Image, flavor: Pick<Flavor, "name" | "diskBytes">): void {
  if (image.format === "kernel_bundle" || image.virtualBytes <= flavor.diskBytes) return;
  throw fault(
    "failed_precondition",
    "flavor_too_small",
    `Cannot put a disk of ${image.virtualBytes} bytes on flavor ${flavor.name}: wanted at most ${flavor.diskBytes}`,
    { field: "flavor" },
  );
}
