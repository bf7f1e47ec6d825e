"""`kopt view`: the reports of a workspace, served to this machine, live while a run goes on."""
