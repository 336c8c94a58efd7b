import type { VmSpec } from "./spec.ts";

/** The files of a NoCloud seed by name (cloud-init, "NoCloud" datasource, network config version 2). */
export function seedFiles(spec: VmSpec): { readonly name: string; readonly text: string }[] {
  return [
    { name: "meta-data", text: metaData(spec) },
    { name: "network-config", text: networkConfig(spec) },
    { name: "user-data", text: spec.userData === "" ? "#cloud-config\n{}\n" : spec.userData },
  ];
}

function metaData(spec: VmSpec): string {
  const lines = [
    `instance-id: ${spec.vmId}`,
    `local-hostname: ${spec.name}`,
    `hostname: ${spec.name}`,
  ];
  if (spec.sshAuthorizedKeys.length > 0) {
    lines.push("public-keys:", ...spec.sshAuthorizedKeys.map((key) => `  - ${JSON.stringify(key)}`));
  }
  return lines.join("\n") + "\n";
}

function networkConfig(spec: VmSpec): string {
  if (spec.nics.length === 0) return "version: 2\nethernets: {}\n";
  const lines = ["version: 2", "ethernets:"];
  spec.nics.forEach((nic, i) => {
    lines.push(`  nic${i}:`, "    match:", `      macaddress: "${nic.mac}"`, "    dhcp4: true");
    // The first NIC's route wins; the guest's own choice would depend on the order of the leases.
    if (i > 0) lines.push("    dhcp4-overrides:", `      route-metric: ${100 + 10 * i}`);
    lines.push("    optional: true");
  });
  return lines.join("\n") + "\n";
}
