import { fault } from "@ultracloud/base";
import { splitStatements } from "./sql_line.ts";

export interface MigrationFile {
  readonly version: bigint;
  readonly name: string;
  readonly statements: string[];
}

/** The migrations of a folder by their number: `0001_people.sql`, `0002_age.sql`, ... without gaps. */
export async function readMigrations(folder: string): Promise<MigrationFile[]> {
  const names: string[] = [];
  for await (const entry of Deno.readDir(folder)) {
    if (entry.isFile && entry.name.endsWith(".sql")) names.push(entry.name);
  }
  const migrations: MigrationFile[] = [];
  for (const [i, file] of names.sort().entries()) {
    const [, number, name] = /^(\d+)_([A-Za-z0-9_-]+)\.sql$/.exec(file) ?? [];
    if (number === undefined || name === undefined || Number(number) !== i + 1) {
      throw fault(
        "invalid_argument",
        "migration_name",
        `Cannot take ${folder}/${file} as migration ${i + 1}: wanted ${String(i + 1).padStart(4, "0")}_name.sql`,
      );
    }
    const { statements, rest } = splitStatements(await Deno.readTextFile(`${folder}/${file}`));
    if (rest.trim() !== "") statements.push(rest.trim());
    migrations.push({ version: BigInt(i + 1), name, statements });
  }
  return migrations;
}
