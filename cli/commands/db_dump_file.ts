import { fromJsonString, type MessageInitShape, toJsonString } from "@bufbuild/protobuf";
import { timestampDate } from "@bufbuild/protobuf/wkt";
import { fault } from "@ultracloud/base";
import {
  type DumpPart,
  type DumpPartSchema,
  ImportKeySchema,
  ImportRowsSchema,
  type LoadRequestSchema,
} from "@ultracloud/proto/flaredb/v1";

/**
 * A dump as a text: SQL statements that each end with a semicolon at the end of a line, and comments that begin with
 * `mark` for what SQL cannot say.
 */
const mark = "-- flaredb ";
/** A line, or a statement over several, that is longer was not written by a dump. */
const statementCharsMax = 24 * 1024 * 1024;

/** Writes the parts of a dump; the file appears whole, or not at all. */
export async function writeDumpFile(
  path: string,
  parts: AsyncIterable<DumpPart>,
): Promise<{ readonly summary: string }> {
  const next = `${path}.part`;
  try {
    using file = await Deno.open(next, { write: true, create: true, truncate: true, mode: 0o600 });
    let summary: string | undefined;
    for await (const { part } of parts) {
      const data = new TextEncoder().encode(textOf(part));
      for (let at = 0; at < data.length;) at += await file.write(data.subarray(at));
      if (part.case === "footer") summary = `${part.value.statements} statements, ${part.value.keys} keys`;
    }
    if (summary === undefined) throw fault("data_loss", "dump_cut", "Cannot keep the dump as it ended too early");
    await file.syncData();
    await Deno.rename(next, path);
    return { summary };
  } catch (error) {
    await Deno.remove(next).catch(() => {});
    throw error;
  }
}

function textOf(part: DumpPart["part"]): string {
  switch (part.case) {
    case "header": {
      const { format, database, index, time } = part.value;
      const at = time === undefined ? "" : ` of ${timestampDate(time).toISOString()}`;
      return `${mark}dump ${format}: ${database} at index ${index}${at}\n`;
    }
    case "statement":
      // A comment at its end would swallow the semicolon.
      return `${part.value}${/--[^\n]*$/.test(part.value) ? "\n" : ""};\n`;
    case "key":
      return `${mark}key ${toJsonString(ImportKeySchema, part.value)}\n`;
    case "rows":
      return `${mark}rows ${toJsonString(ImportRowsSchema, part.value)}\n`;
    case "footer":
      return `${mark}end: ${part.value.statements} statements, ${part.value.keys} keys\n`;
    default:
      return "";
  }
}

/** What a load sends: the target, then the parts of the file. */
export async function* readDumpFile(
  database: string,
  path: string,
): AsyncGenerator<MessageInitShape<typeof LoadRequestSchema>> {
  yield { part: { case: "target", value: { database } } };
  let statement = "", number = 0;
  for await (const line of lines(path)) {
    number++;
    if (statement === "" && (line.trim() === "" || line.startsWith("--"))) {
      const part = partOf(line, path, number);
      if (part !== undefined) yield { part: { case: "dump", value: { part } } };
      continue;
    }
    statement += statement === "" ? line : `\n${line}`;
    if (statement.length > statementCharsMax) throw unreadable(path, number, "a statement does not end");
    if (!line.endsWith(";") || !isWhole(statement)) continue;
    const value = statement.slice(0, -1).trimEnd();
    yield { part: { case: "dump", value: { part: { case: "statement", value } } } };
    statement = "";
  }
  if (statement !== "") throw unreadable(path, number, "the last statement does not end");
}

type Part = NonNullable<MessageInitShape<typeof DumpPartSchema>["part"]>;

function partOf(line: string, path: string, number: number): Part | undefined {
  if (!line.startsWith(mark)) return undefined;
  const [, word = "", rest = ""] = /^(\w+):? ?(.*)$/.exec(line.slice(mark.length)) ?? [];
  try {
    switch (word) {
      case "dump":
        return { case: "header", value: { format: Number.parseInt(rest) } };
      case "key":
        return { case: "key", value: fromJsonString(ImportKeySchema, rest) };
      case "rows":
        return { case: "rows", value: fromJsonString(ImportRowsSchema, rest) };
      case "end": {
        const [, statements, keys] = /^(\d{1,15}) statements, (\d{1,15}) keys$/.exec(rest)!;
        return { case: "footer", value: { statements: BigInt(statements!), keys: BigInt(keys!) } };
      }
    }
  } catch { /* told below */ }
  throw unreadable(path, number, `${mark}${word} cannot be read`);
}

/** No text, name or comment is open at the end, nor the body of a trigger. */
function isWhole(statement: string): boolean {
  const bare = statement.replace(
    /'(?:[^']|'')*'|"(?:[^"]|"")*"|`(?:[^`]|``)*`|\[[^\]]*\]|--[^\n]*(?:\n|$)|\/\*[\s\S]*?\*\//g,
    " ",
  );
  if (/['"`[]|\/\*/.test(bare) || !bare.trimEnd().endsWith(";")) return false;
  return !/^\s*create\s+trigger\b/i.test(bare) || /;\s*end\s*;$/i.test(bare.trimEnd());
}

async function* lines(path: string): AsyncGenerator<string> {
  const file = await Deno.open(path);
  let held = "";
  for await (const chunk of file.readable.pipeThrough(new TextDecoderStream("utf-8", { fatal: true }))) {
    held += chunk;
    if (held.length > statementCharsMax && !held.includes("\n")) throw unreadable(path, 0, "a line does not end");
    const found = held.split("\n");
    held = found.pop()!;
    yield* found;
  }
  if (held !== "") yield held;
}

function unreadable(path: string, line: number, why: string): Error {
  return fault("data_loss", "dump_damaged", `Cannot read ${path} at line ${line}: ${why}`);
}
