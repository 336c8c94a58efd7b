{
  description = "The functions of nixpkgs' lib that UltraCloud's flake uses";
  outputs = { self }: { lib = import ./.; };
}
