(function_declaration name: (identifier) @name) @definition.function
(function_declaration name: (dot_index_expression table: (_) @within field: (identifier) @name))
  @definition.function
(function_declaration name: (method_index_expression table: (_) @within method: (identifier) @name))
  @definition.method
(assignment_statement
  (variable_list . name: (identifier) @name .)
  (expression_list . value: (function_definition) .)) @definition.function
(assignment_statement
  (variable_list . name: (dot_index_expression table: (_) @within field: (identifier) @name) .)
  (expression_list . value: (function_definition) .)) @definition.function
(assignment_statement (variable_list name: (identifier) @name)) @definition.variable
(variable_declaration (variable_list name: (identifier) @name)) @definition.variable
(field name: (identifier) @name value: (function_definition)) @definition.function
(assignment_statement
  (expression_list value: (table_constructor (field name: (identifier) @name) @definition.field)))

; Uses
(function_definition) @local
(for_statement) @local
(variable_declaration) @outer
(comment) @comment

(function_call name: (identifier) @_require
  arguments: (arguments (string content: (string_content) @import)) (#eq? @_require "require"))

(identifier) @reference
