import { DatabaseService } from "@ultracloud/proto/flaredb/v1";
import { text } from "../frame/command.ts";
import type { Session } from "../frame/session.ts";

const databaseNames = async (session: Session) => {
  const { databases } = await session.client(DatabaseService, "flaredb").listDatabases({});
  return databases.map(({ name }) => name);
};

export const databaseArg = { brief: "Database", placeholder: "database", complete: databaseNames } as const;
export const optionalText = (brief: string) => ({ kind: "parsed", parse: text, optional: true, brief }) as const;
export const flag = (brief: string) => ({ kind: "boolean", default: false, brief }) as const;

/** Where in a database's log something is. */
export function parseIndex(input: string): bigint {
  if (/^\d{1,19}$/.test(input)) return BigInt(input);
  throw new Error(`Cannot read ${JSON.stringify(input)} as an index: wanted digits`);
}

export const indexFlag = (brief: string) => ({ kind: "parsed", parse: parseIndex, optional: true, brief }) as const;
