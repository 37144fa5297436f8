(function_definition name: (word) @name) @definition.function
(variable_assignment name: (variable_name) @name) @definition.variable
(command name: (command_name) @_alias argument: (concatenation . (word) @name) (#eq? @_alias "alias"))
  @definition.function

; Uses
(subshell) @local
(declaration_command) @outer
(comment) @comment

(command name: (command_name) @_source argument: [(word) (string) (raw_string) (concatenation)] @import
  (#any-of? @_source "source" "."))

(variable_name) @reference
(command_name (word) @reference)
