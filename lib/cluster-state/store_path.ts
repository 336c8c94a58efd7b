import { z } from "zod";

/** `/nix/store/<32 of Nix's base32>-<name>`, and nothing below it. */
export const storePathPattern = /^\/nix\/store\/[0-9abcdfghijklmnpqrsvwxyz]{32}-[A-Za-z0-9+._?=-]{1,211}$/;

export const storePathSchema = z.string().regex(
  storePathPattern,
  "wanted a store path /nix/store/<hash>-<name>",
);

/** `<name>:<base64 of 32 bytes>`, as `nix key convert-secret-to-public` prints it. */
export const trustedKeySchema = z.string().regex(
  /^[A-Za-z0-9._-]{1,128}:[A-Za-z0-9+/]{43}=$/,
  "wanted a public key NAME:BASE64 of a binary cache",
);
