/** The one adapter over node:sqlite. */
export * from "./database.ts";
export * from "./backup.ts";
export * from "./lasting_transaction.ts";
