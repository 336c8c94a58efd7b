import { fault, utf8 } from "@ultracloud/base";
import type { Value } from "@ultracloud/proto/flaredb/v1";

/** The value as SQL that reads as the same value: type, all 64 bits, every bit of a fraction. */
export function sqlLiteral({ kind }: Value): string {
  switch (kind.case) {
    case undefined:
    case "null":
      return "NULL";
    case "integer":
      return String(kind.value);
    case "real":
      if (Number.isNaN(kind.value)) return "NULL";
      if (!Number.isFinite(kind.value)) return kind.value > 0 ? "9e999" : "-9e999";
      // An integral one would read as an INTEGER; minus nought keeps its sign.
      if (Object.is(kind.value, -0)) return "-0.0";
      return Number.isInteger(kind.value) && !String(kind.value).includes("e") ? `${kind.value}.0` : String(kind.value);
    case "text":
      // SQL texts hold no NUL.
      return kind.value.includes("\0")
        ? `CAST(x'${utf8.encode(kind.value).toHex()}' AS TEXT)`
        : `'${kind.value.replaceAll("'", "''")}'`;
    case "blob":
      return `x'${kind.value.toHex()}'`;
    default:
      throw fault("internal", "value_unknown", "Cannot write a value of an unknown kind as SQL");
  }
}
