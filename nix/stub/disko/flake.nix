{
  description = "Stands in for disko: its options as far as they are used";
  outputs = { self }: { nixosModules.disko = ./module.nix; };
}
