import { toHex } from "@ultracloud/base";
import type { QmpClient } from "@ultracloud/qmp";
import { unlessAbsent } from "./devices.ts";
import { removeAll } from "./files.ts";
import type { HostUser } from "./host_user.ts";
import { slotCount, type SlotFiles } from "./slots.ts";

/**
 * Guests that leave their host go by TLS with a pre-shared key: made by the target for one migration, handed to the
 * source by the control plane, known to nobody else. A certificate would only say that the peer is of this cluster.
 */

/** Where guests from other hosts arrive. */
export interface MigrationListen {
  /** Of this host, as other hosts reach it. */
  readonly address: string;
  /** The first of two ports for each slot: memory, then disks. */
  readonly portFirst: number;
}

/** Ports a worker may listen on, from its first. */
export const migrationPorts = 2 * slotCount;

/** Id of the key in QEMU. */
export const tlsCreds = "migration-tls";
/** The only one QEMU's own side asks for. */
const username = "qemu";

/**
 * The group of RFC 7919 with 2048 bits (ffdhe2048). QEMU would make one of its own at each start of a server, for which
 * it needs seconds; the sessions agree on an elliptic curve anyway.
 */
const dhParams = `-----BEGIN DH PARAMETERS-----
MIIBCAKCAQEA//////////+t+FRYortKmq/cViAnPTzx2LnFg84tNpWp4TZBFGQz
+8yTnc4kmz75fS/jY2MMddj2gbICrsRhetPfHtXV/WVhJDP1H18GbtCFY2VVPe0a
87VXE15/V8k1mE8McODmi3fipona8+/och3xWKE2rec1MKzKT0g6eXq8CrGCsyT7
YdEIqUuyyOP7uWrat2DX9GgdT0Kj3jlN9K5W7edjcrsZCwenyO4KbXCeAvzhzffi
7MA0BM0oNC9hkXL+nOmFg/+OTxIy7vKBg8P+OxtMb61zO7X8vC7CIAXFjvGDfRaD
ssbzSibBsu/6iGtCOGEoXJf//////////wIBAg==
-----END DH PARAMETERS-----
`;

/** A key that nobody had before. */
export function freshPsk(): string {
  return toHex(crypto.getRandomValues(new Uint8Array(32)));
}

/** Gives the VM's QEMU the key, as one side of the session, unless it has it. */
export async function addTlsKey(
  monitor: QmpClient,
  at: SlotFiles,
  slot: number,
  o: { readonly psk: string; readonly endpoint: "server" | "client" },
  user: HostUser,
): Promise<void> {
  const objects = await monitor.execute<{ name: string }[]>("qom-list", { path: "/objects" });
  // By an agent before this one.
  if (objects.some(({ name }) => name === tlsCreds)) return;
  const dh = `${at.dir}/dh-params.pem`;
  await Deno.writeTextFile(dh, dhParams, { mode: 0o600 });
  await Deno.writeTextFile(at.pskFile, `${username}:${o.psk}\n`, { mode: 0o600 });
  await user.forVm(slot, [at.pskFile, dh], []);
  await monitor.execute("object-add", {
    "qom-type": "tls-creds-psk",
    id: tlsCreds,
    dir: at.dir,
    endpoint: o.endpoint,
    ...(o.endpoint === "client" ? { username } : {}),
  });
}

/** Forgets the key, where there is one. */
export async function dropTlsKey(monitor: QmpClient, at: SlotFiles): Promise<void> {
  await monitor.execute("object-del", { id: tlsCreds }).catch(unlessAbsent);
  await removeAll(at.pskFile);
}
