import { linearizable } from "./linearize.ts";

/** What a client did to one register. A register starts as 0. */
export type RegisterAction =
  | { readonly kind: "write"; readonly value: number }
  | { readonly kind: "read"; readonly value: number }
  | { readonly kind: "cas"; readonly expected: number; readonly value: number; readonly swapped: boolean };

/** An action with the span in which it took effect; an unknown outcome has no end and may also never have happened. */
export interface RegisterOperation {
  readonly key: string;
  readonly action: RegisterAction;
  readonly invokedAt: number;
  /** Infinity when the outcome is unknown. */
  readonly returnedAt: number;
}

/** Keys whose operations have no order that explains them; empty when the history is linearizable. */
export function checkLinearizable(history: readonly RegisterOperation[]): string[] {
  // Registers are independent: a history is linearizable when each key's part is (P-compositionality).
  const byKey = new Map<string, RegisterOperation[]>();
  for (const operation of history) {
    // A read without an answer says nothing.
    if (operation.action.kind === "read" && operation.returnedAt === Infinity) continue;
    const list = byKey.get(operation.key);
    if (list) list.push(operation);
    else byKey.set(operation.key, [operation]);
  }
  return [...byKey].filter(([, operations]) => !linearizable(operations)).map(([key]) => key);
}
