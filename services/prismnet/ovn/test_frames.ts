import { toHex, utf8 } from "@ultracloud/base";
import { parseIp6 } from "../domain/ipv6.ts";
import type { Netns } from "./test_netns.ts";

/** Frames as nobody's kernel would send them: lies need a raw socket, which a small helper opens inside a namespace. */

const bytesOf = (mac: string) => mac.split(":").map((part) => Number.parseInt(part, 16));
const ip6Of = (address: string) => parseIp6(address)!.flatMap((group) => [group >> 8, group & 255]);
const word = (value: number) => [value >> 8 & 255, value & 255];

/** RFC 1071 over the pseudo header and the payload. */
function checksum(source: string, destination: string, protocol: number, payload: readonly number[]): number {
  const all = [...ip6Of(source), ...ip6Of(destination), 0, 0, ...word(payload.length), 0, 0, 0, protocol, ...payload];
  let sum = 0;
  for (let i = 0; i < all.length; i += 2) sum += (all[i]! << 8) + (all[i + 1] ?? 0);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >> 16);
  return ~sum & 0xffff;
}

export interface Ends {
  readonly sourceMac: string;
  readonly destinationMac: string;
  readonly source: string;
  readonly destination: string;
}

/** An IPv6 frame; `label` is its flow label, by which a listener knows it. */
function ip6Frame(ends: Ends, label: number, protocol: number, payload: number[], at: number): Uint8Array<ArrayBuffer> {
  const sum = checksum(ends.source, ends.destination, protocol, payload);
  [payload[at], payload[at + 1]] = [sum >> 8, sum & 255];
  return Uint8Array.from([
    ...bytesOf(ends.destinationMac),
    ...bytesOf(ends.sourceMac),
    ...word(0x86dd),
    0x60,
    label >> 16 & 15,
    ...word(label & 0xffff),
    ...word(payload.length),
    protocol,
    255,
    ...ip6Of(ends.source),
    ...ip6Of(ends.destination),
    ...payload,
  ]);
}

const macOption = (type: number, mac: string) => [type, 1, ...bytesOf(mac)];

/** Neighbour advertisement: "`target` is at `mac`". */
export function advertisement(ends: Ends, label: number, target: string, mac: string): Uint8Array<ArrayBuffer> {
  return ip6Frame(ends, label, 58, [136, 0, 0, 0, 0x60, 0, 0, 0, ...ip6Of(target), ...macOption(2, mac)], 2);
}

/** Neighbour solicitation: "who has `target`? I am at `mac`". */
export function solicitation(ends: Ends, label: number, target: string, mac: string): Uint8Array<ArrayBuffer> {
  return ip6Frame(ends, label, 58, [135, 0, 0, 0, 0, 0, 0, 0, ...ip6Of(target), ...macOption(1, mac)], 2);
}

/** The same with its MAC given twice, which switches and kernels read differently. */
export function doubleSolicitation(ends: Ends, label: number, target: string, mac: string): Uint8Array<ArrayBuffer> {
  const options = [...macOption(1, mac), ...macOption(1, ends.sourceMac)];
  return ip6Frame(ends, label, 58, [135, 0, 0, 0, 0, 0, 0, 0, ...ip6Of(target), ...options], 2);
}

/** Router advertisement: "I lead everywhere". */
export function routerAdvertisement(ends: Ends, label: number): Uint8Array<ArrayBuffer> {
  const body = [134, 0, 0, 0, 64, 0, ...word(1_800), 0, 0, 0, 0, 0, 0, 0, 0, ...macOption(1, ends.sourceMac)];
  return ip6Frame(ends, label, 58, body, 2);
}

/** Redirect: "reach `target` through me". */
export function redirect(ends: Ends, label: number, target: string): Uint8Array<ArrayBuffer> {
  return ip6Frame(ends, label, 58, [137, 0, 0, 0, 0, 0, 0, 0, ...ip6Of(ends.source), ...ip6Of(target)], 2);
}

/** Echo request. */
export function echo(ends: Ends, label: number): Uint8Array<ArrayBuffer> {
  return ip6Frame(ends, label, 58, [128, 0, 0, 0, 0, 7, 0, 1, 1, 2, 3, 4], 2);
}

/** UDP; 547 to 546 is what a DHCPv6 server answers. */
export function datagram6(ends: Ends, label: number, from: number, to: number): Uint8Array<ArrayBuffer> {
  const data = utf8.encode("dhcpv6 answer");
  return ip6Frame(ends, label, 17, [...word(from), ...word(to), ...word(8 + data.length), 0, 0, ...data], 6);
}

const rawSocket = `
const libc = Deno.dlopen("libc.so.6", {
  socket: { parameters: ["i32", "i32", "i32"], result: "i32" },
  bind: { parameters: ["i32", "buffer", "u32"], result: "i32" },
  send: { parameters: ["i32", "buffer", "usize", "i32"], result: "isize" },
  recv: { parameters: ["i32", "buffer", "usize", "i32"], result: "isize", nonblocking: true },
  if_nametoindex: { parameters: ["buffer"], result: "u32" },
}).symbols;
const index = libc.if_nametoindex(new TextEncoder().encode("eth0\\0"));
const socket = libc.socket(17, 3, 0xdd86);
const address = new Uint8Array(20);
const view = new DataView(address.buffer);
view.setUint16(0, 17, true);
view.setUint16(2, 0x86dd);
view.setInt32(4, index, true);
if (socket < 0 || index === 0 || libc.bind(socket, address, 20) !== 0) throw new Error("no raw socket on eth0");
`;

/** Sends frames from the namespace's eth0. */
export async function sendFrames(ns: Netns, frames: readonly Uint8Array<ArrayBuffer>[]): Promise<void> {
  const code = `${rawSocket}
for (const text of ${JSON.stringify(frames.map(toHex))}) {
  const frame = Uint8Array.fromHex(text);
  if (Number(libc.send(socket, frame, BigInt(frame.length), 0)) !== frame.length) throw new Error("not sent");
}`;
  await ns.run(Deno.execPath(), "eval", code);
}

export interface FrameListener extends AsyncDisposable {
  /** Flow labels of the IPv6 frames that came in. */
  labels(): ReadonlySet<number>;
}

/** Listens to what comes in at the namespace's eth0. */
export async function listenFrames(ns: Netns): Promise<FrameListener> {
  const code = `${rawSocket}
console.log("listening");
const frame = new Uint8Array(2048);
for (;;) {
  if (await libc.recv(socket, frame, 2048n, 0) < 54) continue;
  console.log("label " + ((frame[15] & 15) << 16 | frame[16] << 8 | frame[17]));
}`;
  const child = ns.spawn(Deno.execPath(), "eval", code);
  let text = "";
  const ready = Promise.withResolvers<void>();
  const reading = (async () => {
    for await (const part of child.stdout.pipeThrough(new TextDecoderStream())) {
      text += part;
      if (text.includes("listening")) ready.resolve();
    }
    ready.reject(new Error("the listener ended"));
  })();
  await ready.promise;
  return {
    labels: () => new Set([...text.matchAll(/label (\d+)/g)].map((match) => Number(match[1]))),
    async [Symbol.asyncDispose]() {
      child.kill("SIGKILL");
      await child.status;
      await reading.catch(() => {});
      await ready.promise.catch(() => {});
    },
  };
}
