import type { Clock } from "./clock.ts";
import { fault } from "./fault.ts";
import type { Rng } from "./rng.ts";

declare const brand: unique symbol;
/** A string that only a parser or maker of its kind produces. */
export type Brand<T, B extends string> = T & { readonly [brand]: B };

/** Type prefixes of resource ids, in alphabetical order. */
export const idPrefixes = [
  "acl",
  "ak",
  "bind",
  "fed",
  "fip",
  "grp",
  "ial",
  "img",
  "key",
  "nat",
  "ocl",
  "op",
  "org",
  "peer",
  "pg",
  "pool",
  "port",
  "prj",
  "req",
  "role",
  "rtr",
  "rule",
  "sa",
  "sched",
  "sg",
  "snap",
  "snet",
  "ssh",
  "usr",
  "vm",
  "vol",
  "vpc",
] as const;
export type IdPrefix = typeof idPrefixes[number];
/** `<prefix>_<26 characters of Crockford base32>`: sorts by creation time. */
export type Id<P extends IdPrefix = IdPrefix> = Brand<string, P>;

const alphabet = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const idPattern = /^([a-z]+)_([0-9A-HJKMNP-TV-Z]{26})$/;

/** 48 bits of time and 80 of randomness as 26 characters (ULID specification). */
export function ulid(clock: Pick<Clock, "nowMs">, rng: Rng): string {
  let time = Math.floor(clock.nowMs());
  let text = "";
  for (let i = 0; i < 10; i++) {
    text = alphabet[time % 32]! + text;
    time = Math.floor(time / 32);
  }
  const bytes = rng.fill(new Uint8Array(16));
  for (let i = 0; i < 16; i++) text += alphabet[bytes[i]! & 31]!;
  return text;
}

/** A new id of the kind. */
export function newId<P extends IdPrefix>(prefix: P, clock: Pick<Clock, "nowMs">, rng: Rng): Id<P> {
  return `${prefix}_${ulid(clock, rng)}` as Id<P>;
}

/** True when `text` is an id of the kind. */
export function isId<P extends IdPrefix>(prefix: P, text: string): text is Id<P> {
  const match = idPattern.exec(text);
  return match !== null && match[1] === prefix;
}

/** The id, or an invalid_argument fault at `field`. */
export function parseId<P extends IdPrefix>(prefix: P, text: string, field: string): Id<P> {
  if (isId(prefix, text)) return text;
  throw fault(
    "invalid_argument",
    "invalid_id",
    `Cannot read ${field} ${JSON.stringify(text)} as an id like ${prefix}_01J...`,
    {
      field,
    },
  );
}
