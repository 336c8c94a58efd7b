import { checkLabels, checkName, fault, invalidField, utf8 } from "@ultracloud/base";
import type { CreateVmRequest } from "@ultracloud/proto/plasmavmc/v1";
import { flavorOf } from "./domain/flavors.ts";
import type { Flavor, GuestData, Image } from "./domain/types.ts";

export const nicsMax = 4;
const groupsMax = 8;
const userDataBytesMax = 64 * 1024;
const sshKeysMax = 16;
const sshKeyCharsMax = 8 * 1024;

/** What a caller asks for, checked as far as the request alone says. */
export interface VmRequest {
  readonly name: string;
  readonly flavor: Flavor;
  readonly labels: Readonly<Record<string, string>>;
  readonly nodeSelector: Readonly<Record<string, string>>;
  readonly guest: GuestData;
}

export function checkVmRequest(request: CreateVmRequest): VmRequest {
  checkLabels(request.labels);
  checkLabels(request.nodeSelector, "nodeSelector");
  if (request.subnets.length > nicsMax) {
    throw invalidField("subnets", `Cannot give a VM ${request.subnets.length} NICs: wanted at most ${nicsMax}`);
  }
  if (request.securityGroups.length > groupsMax) {
    throw invalidField(
      "securityGroups",
      `Cannot use ${request.securityGroups.length} groups: wanted at most ${groupsMax}`,
    );
  }
  // prismnet's own words about them would be taken for a failure of ours.
  checkNames(request.subnets, "subnets");
  checkNames(request.securityGroups, "securityGroups");
  const bytes = utf8.encode(request.userData).length;
  if (bytes > userDataBytesMax) {
    throw invalidField("userData", `Cannot pass ${bytes} bytes of user data: wanted at most ${userDataBytesMax}`);
  }
  if (request.sshAuthorizedKeys.length > sshKeysMax) {
    throw invalidField(
      "sshAuthorizedKeys",
      `Cannot pass ${request.sshAuthorizedKeys.length} keys: wanted at most ${sshKeysMax}`,
    );
  }
  const sshAuthorizedKeys = request.sshAuthorizedKeys.map((text, i) => {
    const key = text.trim();
    if (key.length <= sshKeyCharsMax && /^(ssh-|ecdsa-|sk-)[a-z0-9@.-]+ [A-Za-z0-9+/=]+( [^\r\n]*)?$/.test(key)) {
      return key;
    }
    throw invalidField(
      `sshAuthorizedKeys.${i}`,
      "Cannot use the SSH key: wanted one line as in authorized_keys, without options",
    );
  });
  if (request.image === "") throw invalidField("image", "Cannot create a VM without an image");
  return {
    name: checkName(request.name, "name"),
    flavor: flavorOf(request.flavor),
    labels: request.labels,
    nodeSelector: request.nodeSelector,
    guest: { userData: request.userData, sshAuthorizedKeys },
  };
}

function checkNames(namesOrIds: readonly string[], field: string): void {
  for (const [i, text] of namesOrIds.entries()) {
    if (/^[A-Za-z0-9_-]{1,80}$/.test(text)) continue;
    throw invalidField(`${field}.${i}`, `Cannot use ${JSON.stringify(text.slice(0, 80))}: wanted a name or an id`);
  }
}

/** An image that is a disk needs room for it; a kernel bundle needs none. */
export function checkFits(image: Image, flavor: Flavor): void {
  if (image.format === "kernel_bundle" || image.virtualBytes <= flavor.diskBytes) return;
  throw fault(
    "failed_precondition",
    "flavor_too_small",
    `Cannot put a disk of ${image.virtualBytes} bytes on flavor ${flavor.name}: wanted at most ${flavor.diskBytes}`,
    { field: "flavor" },
  );
}
