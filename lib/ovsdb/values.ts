/**
 * Values as RFC 7047 section 5.1 writes them. A set of one element and its bare element are the same value, and sets
 * and maps have no order: compare with `sameValue`, never by their text.
 */
export type Atom = string | number | boolean | readonly ["uuid" | "named-uuid", string];
export type Value =
  | Atom
  | readonly ["set", readonly Atom[]]
  | readonly [
    "map",
    readonly (readonly [Atom, Atom])[],
  ];

export function uuid(id: string): Atom {
  return ["uuid", id];
}

/** A row that the same transaction inserts under this `uuid-name`. */
export function namedUuid(name: string): Atom {
  return ["named-uuid", name];
}

export function set(atoms: Iterable<Atom>): Value {
  return ["set", [...atoms]];
}

export function map(entries: Readonly<Record<string, string>>): Value {
  return ["map", Object.entries(entries)];
}

function isSet(value: Value): value is readonly ["set", readonly Atom[]] {
  return Array.isArray(value) && value[0] === "set";
}

function isMap(value: Value): value is readonly ["map", readonly (readonly [Atom, Atom])[]] {
  return Array.isArray(value) && value[0] === "map";
}

/** Elements of a set; a bare atom is a set of one. */
export function atomsOf(value: Value | undefined): readonly Atom[] {
  if (value === undefined) return [];
  if (isSet(value)) return value[1];
  if (isMap(value)) throw new TypeError("Cannot read a map as a set");
  return [value as Atom];
}

/** Pairs of a map; none for an absent value. */
export function entriesOf(value: Value | undefined): readonly (readonly [Atom, Atom])[] {
  if (value === undefined) return [];
  if (isMap(value)) return value[1];
  throw new TypeError("Cannot read a value that is no map as a map");
}

/** The id of a reference, undefined when the value is none. */
export function uuidOf(value: Value | undefined): string | undefined {
  return Array.isArray(value) && value[0] === "uuid" ? value[1] as string : undefined;
}

/** One text per value: equal exactly when the values are. */
export function canonical(value: Value): string {
  if (isMap(value)) {
    return `{${value[1].map(([k, v]) => `${JSON.stringify(k)}:${JSON.stringify(v)}`).sort().join()}}`;
  }
  return `[${[...new Set(atomsOf(value).map((atom) => JSON.stringify(atom)))].sort().join()}]`;
}

export function sameValue(a: Value, b: Value): boolean {
  return canonical(a) === canonical(b);
}

/** `old` with a difference of the update2 notation: elements in one of the two, pairs gone, new or changed. */
export function applyDifference(old: Value, difference: Value): Value {
  if (isMap(old) || isMap(difference)) {
    const pairs = new Map(entriesOf(old).map((pair) => [JSON.stringify(pair[0]), pair]));
    for (const pair of entriesOf(difference)) {
      const key = JSON.stringify(pair[0]);
      const present = pairs.get(key);
      if (present && JSON.stringify(present[1]) === JSON.stringify(pair[1])) pairs.delete(key);
      else pairs.set(key, pair);
    }
    return ["map", [...pairs.values()]];
  }
  const atoms = new Map(atomsOf(old).map((atom) => [JSON.stringify(atom), atom]));
  for (const atom of atomsOf(difference)) {
    const key = JSON.stringify(atom);
    if (!atoms.delete(key)) atoms.set(key, atom);
  }
  return ["set", [...atoms.values()]];
}
