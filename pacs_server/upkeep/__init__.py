"""Looking after an archive: recovery, verification, repair, backup, restore, rebuild, scrubbing, emptying the trash."""
