import type { VmSpec } from "../domain/spec.ts";

/** A spec for tests; one user-mode NIC with a forward. */
export function specFixture(change: Partial<VmSpec> = {}): VmSpec {
  return {
    vmId: "vm_01J00000000000000000000000",
    project: "acme/prod",
    name: "web",
    vcpus: 1,
    memoryBytes: 128 * 2 ** 20,
    diskBytes: 64 * 2 ** 20,
    image: { sha256: "ab".repeat(32), format: "kernel_bundle", bytes: 1000 },
    nics: [{
      portId: "port_01J00000000000000000000000",
      mac: "52:54:00:01:02:03",
      ip: "10.9.0.15",
      binding: {
        kind: "user",
        cidr: "10.9.0.0/24",
        gatewayIp: "10.9.0.1",
        dnsIp: "10.9.0.2",
        restrict: false,
        forwards: [{ protocol: "tcp", hostIp: "127.0.0.1", hostPort: 18080, guestPort: 80 }],
      },
    }],
    userData: "",
    sshAuthorizedKeys: [],
    generation: 1,
    rootEpoch: 0,
    writerEpoch: 1,
    volumes: [],
    rootVolume: undefined,
    onLeaseLoss: "shared",
    ...change,
  };
}
