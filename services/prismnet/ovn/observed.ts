import { atomsOf, type OvsdbClient } from "@ultracloud/ovsdb";
import { keyOf } from "./rows.ts";

/** Ids of the ports that some host carries, as the database says; computed anew only after it has changed. */
export function upPorts(db: OvsdbClient): () => ReadonlySet<string> {
  let known: ReadonlySet<string> | undefined;
  db.onChange(() => known = undefined);
  return () => {
    if (known) return known;
    const up = new Set<string>();
    for (const row of db.replica.rows("Logical_Switch_Port").values()) {
      const key = keyOf(row);
      if (key !== undefined && atomsOf(row.up)[0] === true) up.add(key);
    }
    return known = up;
  };
}
