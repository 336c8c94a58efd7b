/** Below the ports that systems give to outgoing connections: one of those could take a port before its listener does. */
const freeFirst = 10_000;
const freeLast = 19_999;
const given = new Set<number>();

/** A TCP port nobody listens on at this moment, and that this process was not given before. */
export function freePort(hostname = "127.0.0.1"): number {
  if (given.size > (freeLast - freeFirst) / 2) given.clear();
  for (;;) {
    const port = freeFirst + Math.floor(Math.random() * (freeLast - freeFirst + 1));
    if (given.has(port) || portTaken(hostname, port)) continue;
    given.add(port);
    return port;
  }
}

/** True when somebody already listens at the address. */
export function portTaken(hostname: string, port: number): boolean {
  try {
    Deno.listen({ hostname, port }).close();
    return false;
  } catch (error) {
    if (error instanceof Deno.errors.AddrInUse) return true;
    throw error;
  }
}
