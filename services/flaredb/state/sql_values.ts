import { create } from "@bufbuild/protobuf";
import { invalidField } from "@ultracloud/base";
import { NullSchema, type Statement, type Value } from "@ultracloud/proto/flaredb/v1";
import type { StatementText } from "../domain/sql_text.ts";

/** Refuses parameters that are missing, too many or unknown. */
export function checkParameters(statement: Statement, text: StatementText, field: string): void {
  const { positional, named } = statement;
  const wanted = text.parameters;
  if (positional.length !== wanted.positional) {
    throw invalidField(
      `${field}.positional`,
      `Cannot bind ${positional.length} positional parameters: wanted ${wanted.positional}`,
      "sql_parameters",
    );
  }
  const given = Object.keys(named);
  for (const name of wanted.named) {
    if (!Object.hasOwn(named, name) && !Object.hasOwn(named, name.slice(1))) {
      throw invalidField(`${field}.named`, `Cannot run without the parameter ${name}`, "sql_parameters");
    }
  }
  for (const name of given) {
    if (!wanted.named.some((known) => known === name || known.slice(1) === name)) {
      throw invalidField(
        `${field}.named`,
        `Cannot bind the parameter ${name.slice(0, 80)}: the statement has none of that name`,
        "sql_parameters",
      );
    }
  }
  for (const value of positional) checkValue(value, field);
  for (const name of given) checkValue(named[name]!, field);
}

function checkValue({ kind }: Value, field: string): void {
  if (kind.case === "integer" && BigInt.asIntN(64, kind.value) !== kind.value) {
    throw invalidField(`${field}.positional`, "Cannot bind an integer of more than 64 bits", "sql_parameters");
  }
  if (kind.case === "text" && !kind.value.isWellFormed()) {
    throw invalidField(
      `${field}.positional`,
      "Cannot bind a text with half of a surrogate pair: wanted Unicode text, or a blob",
      "sql_parameters",
    );
  }
}

/** The parameters in the shape node:sqlite binds. */
export function bindings(statement: Statement, text: StatementText): unknown[] {
  if (text.parameters.named.length === 0) return statement.positional.map(fromValue);
  const named: Record<string, unknown> = {};
  for (const name of text.parameters.named) {
    named[name] = fromValue(statement.named[name] ?? statement.named[name.slice(1)]!);
  }
  return [named];
}

/** bigint binds as INTEGER, number as REAL. */
function fromValue({ kind }: Value): null | bigint | number | string | Uint8Array {
  return kind.case === undefined || kind.case === "null" ? null : kind.value;
}

/** What node:sqlite answered, as a message; `create` would cost more than reading the value. */
export function toValue(value: unknown): Value {
  return { $typeName: "ultracloud.flaredb.v1.Value", kind: kindOf(value) };
}

function kindOf(value: unknown): Value["kind"] {
  switch (typeof value) {
    case "bigint":
      return { case: "integer", value };
    case "number":
      return { case: "real", value };
    case "string":
      return { case: "text", value };
    default:
      return value instanceof Uint8Array ? { case: "blob", value } : { case: "null", value: create(NullSchema) };
  }
}
