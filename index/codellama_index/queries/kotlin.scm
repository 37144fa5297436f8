(class_declaration "interface" name: (identifier) @name (class_body)? @body) @definition.interface
(class_declaration (modifiers (class_modifier "enum")) name: (identifier) @name
  (enum_class_body)? @body) @definition.enum
(class_declaration name: (identifier) @name (class_body)? @body) @definition.class
(object_declaration name: (identifier) @name (class_body)? @body) @definition.class
(companion_object name: (identifier) @name (class_body)? @body) @definition.class
(enum_entry (identifier) @name) @definition.constant
(function_declaration name: (identifier) @name (function_body)? @body) @definition.function
(property_declaration (variable_declaration (identifier) @name)) @definition.variable
(property_declaration (multi_variable_declaration (variable_declaration (identifier) @name)))
  @definition.variable
(type_alias type: (identifier) @name) @definition.type
(class_parameter ["val" "var"] (identifier) @name) @definition.field

; Uses
(lambda_literal) @local
(anonymous_initializer) @local
(secondary_constructor) @local
(getter) @local
(setter) @local
(line_comment) @comment
(block_comment) @comment

(import (qualified_identifier) @import)
(import (qualified_identifier (identifier) @import .))
(import (identifier) @import)

(identifier) @reference
