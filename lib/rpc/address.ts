import { fault } from "@ultracloud/base";

/** Where a server listens or a client connects. */
export type Address =
  | { readonly kind: "tcp"; readonly host: string; readonly port: number }
  | { readonly kind: "unix"; readonly path: string };

const tcp = /^(\[[0-9a-f:.]+\]|[^:\s/]+):(\d{1,5})$/i;
/** sockaddr_un holds 108 bytes with the final zero. */
const unixPathBytesMax = 107;

/** "127.0.0.1:7100", "[::1]:7100", "localhost:0" or "unix:/run/uc/x.sock". */
export function parseAddress(text: string): Address {
  if (text.startsWith("unix:/")) {
    const path = text.slice("unix:".length);
    const bytes = new TextEncoder().encode(path).length;
    if (bytes <= unixPathBytesMax) return { kind: "unix", path };
    throw fault(
      "invalid_argument",
      "bad_address",
      `Cannot use unix socket ${path} of ${bytes} bytes: wanted at most ${unixPathBytesMax}`,
    );
  }
  const match = tcp.exec(text);
  const port = Number(match?.[2]);
  if (match === null || port > 65_535) {
    throw fault("invalid_argument", "bad_address", `Cannot use address ${text}: wanted host:port or unix:/path`);
  }
  return { kind: "tcp", host: match[1]!.replace(/^\[|\]$/g, ""), port };
}

/** True when only this machine can reach the address. */
export function isLoopback(address: Address): boolean {
  if (address.kind === "unix") return true;
  return address.host === "localhost" || address.host === "::1" || /^127(\.\d{1,3}){3}$/.test(address.host);
}

/** host:port with brackets around IPv6. */
export function hostPort(host: string, port: number): string {
  return host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`;
}
