import type { PolicyIndex } from "./policy.ts";
import type { VerifyKey } from "./trust.ts";

/** The newest policy a service knows. */
export interface PolicyView {
  /** Undefined until the first snapshot has come. */
  index(): PolicyIndex | undefined;
  /** 0 until the first snapshot has come. */
  readonly version: number;
  /** Verification key of user tokens by `kid`. */
  key(kid: string): VerifyKey | undefined;
  /** True when iam has not been heard for longer than the bound: mutations are refused then. */
  stale(): boolean;
}
