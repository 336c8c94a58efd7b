import { toFault } from "@ultracloud/rpc";

/** The answer of another component; its failure as a fault. */
export async function typed<T>(call: Promise<T>): Promise<T> {
  try {
    return await call;
  } catch (error) {
    throw toFault(error);
  }
}

/** The answer, undefined when what was asked for is not there. */
export async function orAbsent<T>(call: Promise<T>): Promise<T | undefined> {
  try {
    return await call;
  } catch (error) {
    const known = toFault(error);
    if (known.kind === "not_found") return undefined;
    throw known;
  }
}
