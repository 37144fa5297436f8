(variable_declaration . (identifier) @name) @definition.variable
(variable_declaration "const" . (identifier) @name) @definition.constant
(variable_declaration (identifier) @name [
  (struct_declaration) (union_declaration) (opaque_declaration)]) @definition.class
(variable_declaration (identifier) @name (enum_declaration)) @definition.enum
(variable_declaration (identifier) @name (error_set_declaration)) @definition.enum
(error_set_declaration (identifier) @name) @definition.constant
(enum_declaration (container_field name: (identifier) @name) @definition.constant)
(container_field name: (identifier) @name) @definition.field
(function_declaration name: (identifier) @name) @definition.function
(variable_declaration . (identifier) @name (builtin_function (builtin_identifier) @_builtin)
  (#any-of? @_builtin "@import" "@cImport")) @definition.none
(variable_declaration . (identifier) @name
  (field_expression object: (builtin_function (builtin_identifier) @_builtin)) (#eq? @_builtin "@import"))
  @definition.none

; Uses
(test_declaration) @local
(comment) @comment

(builtin_function (builtin_identifier) @_builtin (arguments (string (string_content) @import))
  (#eq? @_builtin "@import"))
(variable_declaration . (identifier) @import (builtin_function (builtin_identifier) @_builtin)
  (#eq? @_builtin "@import"))

(identifier) @reference
